// The bench's models: 3 x 10 tensors of 4096 x 11008 BF16 (0.9 GB each), a base and two fine-tunes near it, the same
// numbers on every machine. Values are sums of uniforms, close enough to normal for what merging costs.
import { closeSync, existsSync, mkdirSync, openSync, renameSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { float32ToBfloat16 } from "../../core/ops/cast.ts";
import { elementCount } from "../../core/tensor.ts";
import { llamaLayers } from "./llama-layers.ts";

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

/** A model of the llama family to quantize: 0.6 GB in BF16. */
const LLAMA = { hidden: 2048, inner: 5632, layers: 4, heads: 32, keyHeads: 8, vocabulary: 32768 } as const;

type Spec = { readonly name: string; readonly shape: readonly number[] };

/** Makes the llama below `folder` unless it is there. `bytes` are those of its weights. */
export function makeBenchLlama(folder: string): { readonly folder: string; readonly bytes: number } {
  const file = join(folder, "model.safetensors");
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "config.json"), JSON.stringify(describeLlama()));
    writeTensors(file, llamaTensors(), 0);
  }
  return { folder, bytes: statSync(file).size };
}

function describeLlama(): Record<string, unknown> {
  return {
    model_type: "llama",
    hidden_size: LLAMA.hidden,
    intermediate_size: LLAMA.inner,
    num_hidden_layers: LLAMA.layers,
    num_attention_heads: LLAMA.heads,
    num_key_value_heads: LLAMA.keyHeads,
    vocab_size: LLAMA.vocabulary,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
  };
}

function llamaTensors(): readonly Spec[] {
  const { hidden, inner, layers, heads, keyHeads, vocabulary } = LLAMA;
  const keys = (hidden / heads) * keyHeads;
  return [
    { name: "model.embed_tokens.weight", shape: [vocabulary, hidden] },
    { name: "lm_head.weight", shape: [vocabulary, hidden] },
    { name: "model.norm.weight", shape: [hidden] },
    ...llamaLayers({ layers, hidden, inner, keys }).map(([name, shape]) => ({ name, shape })),
  ];
}

function writeModel(file: string, folder: string, deviation: number): void {
  const names = Array.from({ length: BENCH_TENSORS }, (_, index) => `model.layers.${index}.mlp.up_proj.weight`);
  mkdirSync(folder, { recursive: true });
  writeTensors(
    file,
    names.map((name) => ({ name, shape: BENCH_SHAPE })),
    deviation,
  );
}

function writeTensors(file: string, specs: readonly Spec[], deviation: number): void {
  const tensors = specs.map(({ name, shape }) => ({ name, dtype: "BF16" as const, shape: [...shape] }));
  const pattern = new Uint8Array(makePattern(deviation).buffer);
  const fd = openSync(`${file}.tmp`, "w");
  writeSync(fd, encodeSafetensorsHeader(tensors, new Map([["format", "pt"]])).header);
  for (const [tensor, { shape }] of specs.entries()) {
    const bytes = 2 * elementCount(shape);
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

/** Fills bytes with BF16 as weights are; returns the numbers that would follow. */
export function fillNormal(bytes: Uint8Array): () => number {
  const normal = createNormal(5);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length; at += 2) view.setUint16(at, float32ToBfloat16(0.02 * normal()), true);
  return normal;
}

/** About normal numbers: sums of four uniforms (xorshift), of unit variance. */
export function createNormal(seed: number): () => number {
  let state = seed * 2654435761;
  const uniform = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32 - 0.5;
  };
  return () => Math.sqrt(3) * (uniform() + uniform() + uniform() + uniform());
}
