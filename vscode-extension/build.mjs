// Bundles the extension into one file. `--production` minifies it and leaves the map out.
import { build } from "esbuild";
import { statSync } from "node:fs";

const LARGEST = 1_000_000; // bytes
const production = process.argv.includes("--production");
const outfile = "dist/extension.cjs";
await build({
  entryPoints: ["src/extension.ts"],
  outfile,
  bundle: true,
  platform: "node",
  format: "cjs",
  target: "node20",
  external: ["vscode"],
  minify: production,
  sourcemap: !production,
  logLevel: "warning",
});
const { size } = statSync(outfile);
console.log(`${outfile}: ${Math.round(size / 1000)} kB`);
if (production && size > LARGEST) {
  console.error(`${outfile} is larger than ${LARGEST} bytes`);
  process.exit(1);
}
