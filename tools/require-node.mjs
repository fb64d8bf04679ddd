// Stops with one clear line unless the running Node can run this repository. Plain JavaScript, because an older Node
// must be able to read it. Preloaded by the scripts in package.json (`node --import ./tools/require-node.mjs …`).
const NEEDED_MAJOR = 24;

const major = Number(process.versions.node.split(".")[0]);
if (!(major >= NEEDED_MAJOR)) {
  process.stderr.write(
    `Mergeyard needs Node ${NEEDED_MAJOR} or newer; this is Node ${process.versions.node} (${process.execPath}).\n` +
      "`npm ci` installs the right one as node_modules/.bin/node, and npm's scripts use it: run `npm ci` first,\n" +
      "then `npm test`, `npm run demo` or `npx mergeyard`.\n",
  );
  process.exit(1);
}
