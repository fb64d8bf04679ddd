// What torch saves: an upload of the yard as one `pytorch_model.bin`, and the tensors of files made by hand.
import type { Picklable } from "../../core/formats/pickle/write.ts";
import { pyTensor } from "../../core/formats/torch/write.ts";
import { gatherWhole, type TargetTensor } from "../../core/universal/box.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { dict, tensor, torchOf } from "../core/formats/torch-parts.ts";
import { putText } from "./deps.ts";

/** A vector of float32, as what a torch file is written from. */
export function torchFloats(...values: readonly number[]): Picklable<TargetTensor> {
  const literal = new Uint8Array(Float32Array.from(values).buffer);
  const shape = [values.length];
  return pyTensor({ dtype: "F32", shape, gather: gatherWhole([{ literal, offset: 0, bytes: literal.length }], shape) });
}

/** Writes what lies below `source`, of float32 tensors, below `target`; the marker last, which makes it complete. */
export async function putTorch(yard: ObjectStore, source: string, target: string): Promise<void> {
  const { checkpoint } = await openCheckpoint(yard, source);
  const storages: Record<string, Uint8Array> = {};
  const entries: [string, Uint8Array][] = [];
  for (const [index, { name, shape, ranges }] of checkpoint.tensors.entries()) {
    const [range] = ranges;
    const into = new Uint8Array(range?.bytes ?? 0);
    await yard.readInto(`${source}${range?.file}`, range?.offset ?? 0, into);
    storages[index] = into;
    const stride = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, length) => product * length, 1));
    entries.push([name, tensor({ key: String(index), count: into.length / 4, size: shape, stride })]);
  }
  const bytes = torchOf(dict(...entries), storages);
  await writeBytes(yard, `${target}pytorch_model.bin`, bytes);
  await yard.copy(`${source}config.json`, `${target}config.json`);
  await putText(yard, `${target}_COMPLETE`, "");
}
