/** Versions, and which of them go together. */

/** Return the version in the output of `treeline-lsp --version`, or nothing if another program wrote it. */
export function versionIn(output: string): string | undefined {
  return /^treeline-lsp (\d+\.\d+\.\d+\S*)\s*$/.exec(output)?.[1];
}

/** Whether a server and an extension of these versions know the same messages. */
export function compatible(server: string, extension: string): boolean {
  return line(server) === line(extension);
}

/** Before version 1 each minor version may change everything. */
function line(version: string): string {
  const [major = "", minor = ""] = version.split(".");
  return major === "0" ? `0.${minor}` : major;
}
