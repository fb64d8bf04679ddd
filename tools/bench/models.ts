// The bench's models: 3 x 10 tensors of 4096 x 11008 BF16 (0.9 GB each), a base and two fine-tunes near it, the same
// numbers on every machine. Values are sums of uniforms, close enough to normal for what merging costs.
import { closeSync, existsSync, mkdirSync, openSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors.ts";
import { float32ToBfloat16 } from "../../core/ops/cast.ts";

const BENCH_SHAPE = [4096, 11008] as const;
const BENCH_TENSORS = 10;
/** Standard deviation of each model's difference to the base; the base's own is 0.02. */
const MODELS = [
  ["base", 0],
  ["ft1", 0.002],
  ["ft2", 0.004],
] as const;
/** Elements made anew; a tensor repeats them from a start of its own. */
const PATTERN_ELEMENTS = 2 ** 22;

/** Makes the models below `folder` unless they are there. */
export function makeBenchModels(folder: string): void {
  for (const [model, deviation] of MODELS) {
    const file = join(folder, model, "model.safetensors");
    if (!existsSync(file)) writeModel(file, join(folder, model), deviation);
  }
}

function writeModel(file: string, folder: string, deviation: number): void {
  const names = Array.from({ length: BENCH_TENSORS }, (_, index) => `model.layers.${index}.mlp.up_proj.weight`);
  const tensors = names.map((name) => ({ name, dtype: "BF16" as const, shape: [...BENCH_SHAPE] }));
  const pattern = new Uint8Array(makePattern(deviation).buffer);
  mkdirSync(folder, { recursive: true });
  const fd = openSync(`${file}.tmp`, "w");
  writeSync(fd, encodeSafetensorsHeader(tensors, new Map([["format", "pt"]])).header);
  const bytes = 2 * BENCH_SHAPE[0] * BENCH_SHAPE[1];
  for (let tensor = 0; tensor < BENCH_TENSORS; tensor++) {
    for (let done = 0; done < bytes; ) {
      const start = (2 * 65537 * tensor + done) % pattern.byteLength;
      done += writeSync(fd, pattern, start, Math.min(pattern.byteLength - start, bytes - done));
    }
  }
  closeSync(fd);
  renameSync(`${file}.tmp`, file);
}

function makePattern(deviation: number): Uint16Array {
  const [base, delta] = [createNormal(1), createNormal(Math.round(deviation * 1e6) + 2)];
  return Uint16Array.from({ length: PATTERN_ELEMENTS }, () => float32ToBfloat16(0.02 * base() + deviation * delta()));
}

/** About normal numbers: sums of four uniforms (xorshift), of unit variance. */
function createNormal(seed: number): () => number {
  let state = seed * 2654435761;
  const uniform = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32 - 0.5;
  };
  return () => Math.sqrt(3) * (uniform() + uniform() + uniform() + uniform());
}
