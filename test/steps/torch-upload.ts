// An upload of the yard saved by torch instead: the same tensors in one `pytorch_model.bin`.
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { dict, tensor, torchOf } from "../core/formats/torch-parts.ts";
import { putText } from "./deps.ts";

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
