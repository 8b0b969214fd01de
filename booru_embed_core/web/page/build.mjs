// Builds ../static from src: the page, its script and style, and the licences of the bundled packages.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const HERE = import.meta.dirname;
const STATIC = join(HERE, "..", "static");

// tests/ui/test_built_page.py computes the same hash, to check that the committed build belongs to the sources.
function hashOfSources() {
  const files = readdirSync(HERE, { recursive: true })
    .map((name) => name.replaceAll("\\", "/"))
    .filter((name) => !name.startsWith("node_modules") && statSync(join(HERE, name)).isFile())
    .sort();
  const hash = createHash("sha256");
  for (const name of files) hash.update(`${name}\0`).update(readFileSync(join(HERE, name))).update("\0");
  return hash.digest("hex");
}

function licences(inputs) {
  const packages = new Set(
    inputs.map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter((name) => name !== undefined),
  );
  return [...packages].sort().map((name) => {
    const folder = join(HERE, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    if (file === undefined) throw new Error(`${name} ${version} ships no licence file; it cannot be bundled`);
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
}

rmSync(STATIC, { recursive: true, force: true });
mkdirSync(STATIC);
const { metafile } = await build({
  absWorkingDir: HERE,
  entryPoints: { page: "src/main.tsx", "page-style": "src/style.css" },
  outdir: STATIC,
  bundle: true,
  minify: true,
  metafile: true,
  format: "esm",
  target: ["chrome123", "firefox121", "safari17.5"], // the first versions with light-dark()
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // LICENSES has them
});
const sources = hashOfSources();
const html = readFileSync(join(HERE, "src", "index.html"), "utf8").replaceAll("{sources}", sources);
writeFileSync(join(STATIC, "index.html"), html);
writeFileSync(join(STATIC, "icon.svg"), readFileSync(join(HERE, "src", "icon.svg")));
const rule = `${"-".repeat(100)}\n`;
writeFileSync(
  join(STATIC, "LICENSES"),
  `page.js bundles code of these packages from npm:\n\n${licences(Object.keys(metafile.inputs)).join(rule)}`,
);
