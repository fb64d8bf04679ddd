// Writing torch files: pickles that our own machine reads back, archives whose every place is known before a byte of
// the tensors is, also beyond 4 GiB.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { unpickle } from "../../../core/formats/pickle/pickle.ts";
import { asKind, fieldOf } from "../../../core/formats/pickle/value.ts";
import {
  encodePickle,
  type Picklable,
  pyDict,
  pyList,
  pyRecord,
  pySize,
  pyTuple,
  torchDtype,
} from "../../../core/formats/pickle/write.ts";
import { placeTorchTensor, readTorchFile } from "../../../core/formats/torch/file.ts";
import { planTorchFile, pyTensor } from "../../../core/formats/torch/write.ts";
import { readZip } from "../../../core/formats/torch/zip.ts";
import { planZip } from "../../../core/formats/torch/zip-write.ts";
import { DTYPES, type Dtype, tensorBytes } from "../../../core/tensor.ts";
import type { TargetTensor } from "../../../core/universal/box.ts";
import { gatherWhole } from "../../../core/universal/box.ts";
import { writePlanned } from "../../../steps/convert/write-planned.ts";
import { readAll } from "../../../stores/objects.ts";
import { newStore } from "../../steps/deps.ts";
import { readerOf } from "./torch-parts.ts";

const roundTrip = (value: Picklable) =>
  unpickle(
    encodePickle<never>(value, () => ""),
    { file: "x" },
  ).value;

suite("pickles that are written", () => {
  test("hold numbers of every width, texts and nothing else of their kind", () => {
    const numbers = [0, 255, 256, 65_535, 65_536, -1, 2 ** 31 - 1, 2 ** 31, -(2 ** 31) - 1, 2 ** 53 - 1, 0.1, -1e300];
    for (const number of numbers) assert.equal(roundTrip(number), number);
    assert.equal(roundTrip({ kind: "float", value: 2 }), 2);
    assert.equal(encodePickle<never>({ kind: "float", value: 2 }, () => "")[2], 0x47);
    for (const value of [null, true, false, "", "naïve 日本 \u{1f600}"]) assert.equal(roundTrip(value), value);
  });

  test("hold containers and the records of the table", () => {
    assert.deepEqual(roundTrip(pyTuple([1, pyTuple([]), pyTuple([1, 2, 3, 4])])), {
      kind: "tuple",
      items: [1, { kind: "tuple", items: [] }, { kind: "tuple", items: [1, 2, 3, 4] }],
    });
    const dict = roundTrip(pyDict([["a", pyList([1, "b"])]], { isOrdered: true }));
    assert.deepEqual(fieldOf(dict, "a"), { kind: "list", items: [1, "b"] });
    assert.deepEqual(roundTrip(pySize([2, 3])), { kind: "tuple", items: [2, 3], isSize: true });
    const address = roundTrip(pyRecord("deepspeed.utils.tensor_fragment fragment_address", { numel: 3, start: 1 }));
    assert.equal(asKind(address, "record")?.fields.get("start"), 1);
    assert.equal(asKind(roundTrip(torchDtype("BF16")), "dtype")?.dtype, "BF16");
    const stage = roundTrip({ kind: "call", name: "deepspeed.runtime.zero.config ZeroStageEnum", args: [2] });
    assert.equal(asKind(stage, "enum")?.member, "gradients");
  });

  test("refuse dtypes that torch has no name for", () => {
    assert.throws(() => torchDtype("F4"), { code: "TorchDtypeUnsupported", found: "F4" });
  });
});

const WRITABLE = DTYPES.filter((dtype) => !/^F[46]/.test(dtype));

function literalTensor(dtype: Dtype, shape: readonly number[], seed: number): TargetTensor {
  const literal = Uint8Array.from({ length: tensorBytes(dtype, shape) }, (_, index) => (index * 7 + seed) % 256);
  return { dtype, shape, gather: gatherWhole([{ literal, offset: 0, bytes: literal.length }], shape) };
}

async function written(name: string, value: Picklable<TargetTensor>): Promise<Uint8Array> {
  const store = newStore();
  const file = planTorchFile(name, value);
  await writePlanned({ store, prefix: "" }, file, { store, key: name }, new AbortController().signal);
  const bytes = await readAll(store, name, 1e7);
  assert.equal(bytes.length, file.bytes);
  return bytes;
}

suite("torch files that are written", () => {
  test("give every dtype, shape and byte back, at aligned places", async () => {
    const shapes = [[], [0], [3], [2, 3], [1, 2, 3, 4]];
    const tensors = WRITABLE.flatMap((dtype, seed) =>
      shapes.map((shape): [string, TargetTensor] => [`${dtype} ${shape}`, literalTensor(dtype, shape, seed)]),
    );
    const bytes = await written("x.pt", pyDict(tensors.map(([name, tensor]) => [name, pyTensor(tensor)] as const)));
    const torch = await readTorchFile(readerOf(bytes), { name: "x.pt", bytes: bytes.length });
    for (const [name, { dtype, shape, gather }] of tensors) {
      const tensor = asKind(fieldOf(torch.value, name), "tensor");
      assert.ok(tensor !== undefined, name);
      const placed = placeTorchTensor(torch, tensor, name);
      assert.deepEqual([placed.dtype, placed.shape], [dtype, shape]);
      const [range] = placed.ranges;
      assert.equal((range?.offset ?? 0) % 64, 0);
      const [box] = gather.copies.flat();
      const literal = box?.ranges.find((each) => "literal" in each)?.literal ?? new Uint8Array(0);
      assert.deepEqual(bytes.slice(range?.offset, (range?.offset ?? 0) + literal.length), literal);
    }
  });

  test("store a tensor once that has two names", async () => {
    const tensor = literalTensor("F32", [4], 1);
    const bytes = await written("x.pt", pyDict(["a", "b"].map((name) => [name, pyTensor(tensor)] as const)));
    const torch = await readTorchFile(readerOf(bytes), { name: "x.pt", bytes: bytes.length });
    assert.equal(torch.storages.size, 1);
  });

  test("are the same bytes each time", async () => {
    const value = pyDict([["a", pyTensor(literalTensor("F16", [5], 2))]]);
    assert.deepEqual(await written("x.pt", value), await written("y.pt", value));
  });
});

test("an archive beyond 4 GiB states sizes and places in 64 bits", async () => {
  const large = 5 * 2 ** 30;
  const entries = [
    { name: "archive/data.pkl", bytes: 10 },
    { name: "archive/data/0", bytes: large },
    { name: "archive/data/1", bytes: 7 },
  ];
  const zip = planZip(entries);
  // Everything but the payloads, which are not there: the reader must not look at them.
  const pieces = [
    ...zip.headers.map((bytes, index) => ({ at: (zip.offsets[index] ?? 0) - bytes.length, bytes })),
    ...entries.map(({ bytes }, index) => ({ at: (zip.offsets[index] ?? 0) + bytes, bytes: zip.descriptor(index, 1) })),
    { at: zip.bytes - zip.directoryBytes, bytes: zip.directory([1, 2, 3]) },
  ];
  const read = async (offset: number, length: number): Promise<Uint8Array> => {
    const into = new Uint8Array(length);
    for (const { at, bytes } of pieces) {
      for (let index = Math.max(0, offset - at); index < bytes.length && at + index < offset + length; index += 1) {
        into[at + index - offset] = bytes[index] ?? 0;
      }
    }
    return into;
  };
  const found = await readZip(read, { name: "x", bytes: zip.bytes });
  assert.deepEqual(
    [...found.values()],
    entries.map((entry, index) => ({ ...entry, offset: zip.offsets[index], crc: index + 1 })),
  );
  assert.ok(zip.offsets.every((offset) => offset % 64 === 0));
});
