// What routers say on calibration text, as `mergeyard merge-experts --statistics` reads it.
import { writeFileSync } from "node:fs";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { routeRows } from "./feed-forward.ts";
import { createLlama } from "./llama.ts";
import { numberOf, readTensorFile, readWeights } from "./weights.ts";

const WINDOW = 128;

/** Writes `<prefix>.router_logits` [tokens, experts] and `<prefix>.usage_frequency` [experts] of every layer. */
export async function writeRouterStatistics(
  module: WebAssembly.Module,
  { model, data, tasks, file }: { model: string; data: string; tasks: readonly string[]; file: string },
): Promise<void> {
  const heard = new Map<string, Float32Array[]>();
  const weights = await readWeights(model);
  const llama = createLlama(module, weights, (prefix, logits) => {
    heard.set(prefix, [...(heard.get(prefix) ?? []), logits.slice()]);
  });
  for (const task of tasks) {
    const text = (await readTensorFile(data, `${task}.safetensors`)).get("calibration_text");
    if (text === undefined) throw new Error(`${task} has no calibration text`);
    const bytes = WINDOW * llama.sequencesMax(WINDOW);
    for (let at = 0; at + bytes <= text.bytes.length; at += bytes) {
      llama.logits(text.bytes.subarray(at, at + bytes), bytes / WINDOW, WINDOW);
    }
  }
  const [experts, active] = [numberOf(weights, "num_local_experts"), numberOf(weights, "num_experts_per_tok")];
  const tensors = [...heard].flatMap(([prefix, parts]) => {
    const logits = Float32Array.from(parts.flatMap((part) => [...part]));
    const tokens = logits.length / experts;
    const usage = routeRows(logits, experts, active).map((sent) => sent.length / (tokens * active));
    return [
      { name: `${prefix}.router_logits`, dtype: "F32" as const, shape: [tokens, experts], values: logits },
      { name: `${prefix}.usage_frequency`, dtype: "F32" as const, shape: [experts], values: Float32Array.from(usage) },
    ];
  });
  const { header } = encodeSafetensorsHeader(tensors, new Map(), "given");
  writeFileSync(file, Buffer.concat([header, ...tensors.map(({ values }) => new Uint8Array(values.buffer))]));
}
