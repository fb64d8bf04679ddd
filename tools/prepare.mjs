// What `npm ci` runs at its end: builds `dist/`, where that can be done. An installation without development packages
// has nothing to bundle with, and is complete: the sources run as they are. Plain JavaScript: any Node may read it.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";

const isInstalled = (name) => {
  try {
    return createRequire(import.meta.url).resolve(name) !== "";
  } catch {
    return false;
  }
};

if (isInstalled("rolldown")) {
  const { status } = spawnSync("npm", ["run", "build"], { stdio: "inherit", shell: process.platform === "win32" });
  process.exitCode = status ?? 1;
} else {
  console.log("dist/ is not built, for want of rolldown (a development package): the command runs from its sources");
}
