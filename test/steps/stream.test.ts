import assert from "node:assert/strict";
import { test } from "node:test";
import { createPartHasher, digestBytes, digestTensorFile } from "../../core/artifact/digest.ts";
import { copyVerified, type ListedFile, readPieces, verifyFile } from "../../steps/stream.ts";
import { writeBytes } from "../../stores/objects.ts";
import { refusal } from "../refusal.ts";
import { newStore } from "./deps.ts";

const { signal } = new AbortController();

/** Bytes that differ everywhere, longer than one piece of the stream. */
function sampleBytes(bytes: number): Uint8Array {
  const sample = new Uint8Array(bytes);
  for (let index = 0; index < bytes; index += 1) sample[index] = (index * 31 + (index >> 8)) & 255;
  return sample;
}

test("an object streams in order, whole, in pieces", async () => {
  const store = newStore();
  for (const size of [0, 1, 8 * 2 ** 20, 17 * 2 ** 20 + 3]) {
    const sample = sampleBytes(size);
    await writeBytes(store, "sample", sample);
    const copies: Uint8Array[] = [];
    for await (const piece of readPieces({ store, key: "sample", bytes: size }, signal)) copies.push(piece.slice());
    assert.equal(Buffer.concat(copies).compare(sample), 0, `${size} bytes`);
  }
});

test("parts are digested alike however the stream is cut", () => {
  const sample = sampleBytes(1000);
  const sizes = [0, 10, 0, 0, 490, 500, 0];
  const starts = [0, 0, 10, 10, 10, 500, 1000];
  const expected = sizes.map((bytes, part) => digestBytes(sample.subarray(starts[part], (starts[part] ?? 0) + bytes)));
  for (const step of [1, 7, 10, 499, 1000]) {
    const hasher = createPartHasher(sizes);
    for (let at = 0; at < sample.length; at += step) hasher.update(sample.subarray(at, at + step));
    assert.deepEqual(hasher.digests(), expected, `pieces of ${step}`);
  }
});

/** A file of a header and two tensors, and its listing. */
function sampleFile(): { bytes: Uint8Array; file: ListedFile } {
  const bytes = sampleBytes(60);
  const tensor = (name: string, offset: number, length: number) => {
    const digest = digestBytes(bytes.subarray(offset, offset + length));
    return { name, dtype: "U8" as const, shape: [length], offset, bytes: length, digest };
  };
  const tensors = [tensor("first", 10, 20), tensor("second", 30, 30)];
  const headerDigest = digestBytes(bytes.subarray(0, 10));
  const digest = digestTensorFile(
    headerDigest,
    tensors.map((entry) => entry.digest),
  );
  return { bytes, file: { name: "model.safetensors", bytes: 60, digest, headerDigest, tensors } };
}

test("a damaged file is refused with the tensor that differs, and is not copied", async () => {
  const [source, target] = [newStore(), newStore()];
  const { bytes, file } = sampleFile();
  await writeBytes(source, "f", bytes);
  await copyVerified({ store: source, key: "f", bytes: 60 }, { store: target, key: "f" }, file, signal);
  assert.deepEqual((await target.get("f", 100))?.bytes, bytes);
  for (const [at, tensor] of [
    [3, undefined],
    [12, "first"],
    [59, "second"],
  ] as const) {
    const damaged = bytes.slice();
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    await writeBytes(source, "f", damaged);
    const from = { store: source, key: "f", bytes: 60 };
    await target.delete("f");
    const isRight = refusal({ code: "YardFileCorrupt", tensor });
    await assert.rejects(copyVerified(from, { store: target, key: "f" }, file, signal), isRight);
    await assert.rejects(verifyFile(from, file, signal), isRight);
    assert.equal(await target.head("f"), undefined);
  }
  await assert.rejects(verifyFile({ store: source, key: "f", bytes: 59 }, file, signal), { code: "YardFileCorrupt" });
});

test("a plain file is checked as a whole, an empty one too", async () => {
  const [source, target] = [newStore(), newStore()];
  for (const text of ["", "hello"]) {
    const bytes = new TextEncoder().encode(text);
    await writeBytes(source, "f", bytes);
    const file = { name: "f", bytes: bytes.length, digest: digestBytes(bytes) };
    const from = { store: source, key: "f", bytes: bytes.length };
    await copyVerified(from, { store: target, key: "f" }, file, signal);
    assert.equal((await target.head("f"))?.bytes, bytes.length);
    const other = { ...file, digest: digestBytes("other") };
    await assert.rejects(verifyFile(from, other, signal), { code: "YardFileCorrupt", expected: other.digest });
  }
});
