// Bundles the extension into one file. `--production` minifies it and leaves the map out.
import { build } from "esbuild";
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";

const LARGEST = 1_000_000; // bytes
const production = process.argv.includes("--production");
const outfile = "dist/extension.cjs";
const { metafile } = await build({
  entryPoints: ["src/extension.ts"],
  outfile,
  bundle: true,
  platform: "node",
  format: "cjs",
  target: "node20",
  external: ["vscode"],
  minify: production,
  sourcemap: !production,
  metafile: true,
  logLevel: "warning",
});
writeFileSync("dist/ThirdPartyNotices.txt", notices(Object.keys(metafile.inputs)));
const { size } = statSync(outfile);
console.log(`${outfile}: ${Math.round(size / 1000)} kB`);
if (production && size > LARGEST) {
  console.error(`${outfile} is larger than ${LARGEST} bytes`);
  process.exit(1);
}

/** Return the licences of the packages that the bundle has files of. A package without one is an error. */
function notices(files) {
  const folders = new Set(files.map((file) => /^.*node_modules\/(@[^/]+\/)?[^/]+/.exec(file)?.[0]).filter(Boolean));
  const texts = [...folders].sort().map((folder) => {
    const { name, version } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
    const licence = readdirSync(folder).find((each) => /^licen[cs]e(\.\w+)?$/i.test(each));
    if (licence === undefined) throw new Error(`${name} ${version} has no licence file`);
    return `${name} ${version}\n\n${readFileSync(`${folder}/${licence}`, "utf8").trim()}\n`;
  });
  return `dist/extension.cjs holds code of these packages.\n\n\n${texts.join(`\n\n${"-".repeat(80)}\n\n`)}`;
}
