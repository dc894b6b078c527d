/** macOS's own `python3`, which only opens a window about Apple's developer tools until those are installed. */

import { accessSync, constants } from "node:fs";
import * as path from "node:path";
import { run } from "./process.ts";

const STAND_IN = "/usr/bin/python3";

/** Whether `command` is that program, and there is no Python behind it. */
export async function isStandIn(command: string, platform: NodeJS.Platform = process.platform): Promise<boolean> {
  if (platform !== "darwin" || onPath(command) !== STAND_IN) return false;
  const tools = await run("xcode-select", ["-p"], { timeoutMs: 20_000 }).catch(() => undefined);
  return tools?.status !== 0;
}

function onPath(command: string): string | undefined {
  if (path.isAbsolute(command)) return command;
  const folders = (process.env.PATH ?? "").split(path.delimiter).filter((folder) => path.isAbsolute(folder));
  return folders.map((folder) => path.join(folder, command)).find(runnable);
}

function runnable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
