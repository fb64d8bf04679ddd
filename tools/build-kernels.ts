// `npm run kernels`: compiles kernels/wasm/assembly to kernels/wasm/kernels.wasm, which is committed. The test suite
// compiles it again and compares, so the committed file always belongs to the sources.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs the AssemblyScript compiler; throws with its output when it fails. */
export function buildKernels(target: string): void {
  const compiler = join(root, "node_modules/assemblyscript/bin/asc.js");
  const options = ["--optimizeLevel", "3", "--shrinkLevel", "0", "--converge", "--runtime", "stub", "--noAssert"];
  const memory = ["--importMemory", "--maximumMemory", "65536", "--enable", "simd"];
  const source = join(root, "kernels/wasm/assembly/index.ts");
  const result = spawnSync(process.execPath, [compiler, source, "--outFile", target, ...options, ...memory], {
    cwd: root,
    encoding: "utf8",
  });
  if (result.status !== 0) throw new Error(`the AssemblyScript compiler failed:\n${result.stderr}`);
}

if (import.meta.main) buildKernels(join(root, "kernels/wasm/kernels.wasm"));
