// Plans a file of torch.save: the zip form with one storage for each tensor, which torch reads with weights_only=True
// as long as the value holds tensors and plain values. Two places of one tensor share its storage (tied weights).
// Source: reference checkpoint-formats.md section 2.4.
import type { Json } from "../../json.ts";
import { tensorBytes } from "../../tensor.ts";
import { gatherWhole, type TargetTensor } from "../../universal/box.ts";
import { picklableOf, tuplesOf } from "../pickle/json.ts";
import { encodePickle, type Picklable } from "../pickle/write.ts";
import type { PlannedArchive, PlannedFile, PlannedSection } from "../planned-file.ts";
import { planZip } from "./zip-write.ts";

/** A value of Python whose tensors are still to be gathered. */
export type TorchValue = Picklable<TargetTensor>;

export function pyTensor(tensor: TargetTensor): TorchValue {
  return { kind: "tensor", tensor };
}

/** A float32 of no axes, as torch's optimizers keep their step. Exact up to 2^24. */
export function scalarTensor(value: number): TargetTensor {
  const literal = new Uint8Array(Float32Array.of(value).buffer);
  return { dtype: "F32", shape: [], gather: gatherWhole([{ literal, offset: 0, bytes: literal.length }], []) };
}

/** A hyper-parameter of an optimizer's group: betas are a tuple. */
export function hyperparameterValue(name: string, value: Json): Picklable {
  return name === "betas" ? tuplesOf(value) : picklableOf(value);
}

/** The file of `torch.save(value)`. Throws TorchDtypeUnsupported. */
export function planTorchFile(name: string, value: TorchValue): PlannedFile {
  const archive = planTorchArchive(value, name);
  return { name, bytes: archive.bytes, archives: [archive] };
}

/** The same as a part of a larger file. `label` names it in errors. */
export function planTorchArchive(value: TorchValue, label: string): PlannedArchive {
  const tensors = new Map<TargetTensor, number>();
  const keyOf = (tensor: TargetTensor): string => {
    const key = tensors.get(tensor) ?? tensors.size;
    tensors.set(tensor, key);
    return String(key);
  };
  const pickle = encodePickle(value, keyOf);
  const plain = (name: string, bytes: Uint8Array) => ({ name: `archive/${name}`, bytes, tensor: undefined });
  const entries = [
    plain("data.pkl", pickle),
    plain("byteorder", new TextEncoder().encode("little")),
    ...[...tensors].map(([tensor, key]) => ({ name: `archive/data/${key}`, bytes: undefined, tensor })),
    plain("version", new TextEncoder().encode("3\n")),
  ];
  const zip = planZip(
    entries.map(({ name, bytes, tensor }) => {
      return { name, bytes: tensor === undefined ? (bytes?.length ?? 0) : tensorBytes(tensor.dtype, tensor.shape) };
    }),
  );
  const sections = entries.flatMap(({ bytes, tensor }, index): PlannedSection[] => [
    { kind: "bytes", bytes: zip.headers[index] ?? new Uint8Array(0) },
    tensor === undefined
      ? { kind: "entry", bytes: bytes ?? new Uint8Array(0) }
      : { kind: "tensor", name: label, tensor },
    {
      kind: "sums",
      bytes: zip.descriptorBytes(index),
      encode: (crc32s) => zip.descriptor(index, crc32s[index] ?? 0),
    },
  ]);
  const end: PlannedSection = { kind: "sums", bytes: zip.directoryBytes, encode: zip.directory };
  return { bytes: zip.bytes, sections: [...sections, end] };
}
