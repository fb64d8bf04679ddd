// Cutting parameters for the ranks of another topology: every element once, padding zero.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { convertTensor, gatherWhole, type TargetTensor } from "../../../core/universal/box.ts";
import type { ConversionParameter } from "../../../core/universal/conversion.ts";
import { cutEach, cutFlattened, flatTensor, sliceForRank, vocabularyRows } from "../../../core/universal/partition.ts";
import { gatherPieces } from "../../../engine/gather.ts";
import { newStore } from "../../steps/deps.ts";

type Counting = TargetTensor & Omit<ConversionParameter, "gather">;

/** The values 1, 2, 3 … in float32. */
function counting(shape: readonly number[], pattern: ConversionParameter["pattern"]): Counting {
  const count = shape.reduce((product, length) => product * length, 1);
  const literal = new Uint8Array(Float32Array.from({ length: count }, (_, index) => index + 1).buffer);
  const gather = gatherWhole([{ literal, offset: 0, bytes: literal.length }], shape);
  return { name: "w", dtype: "F32", shape, pattern, gather, paddedRows: undefined, aliases: [], training: undefined };
}

async function valuesOf(tensor: TargetTensor): Promise<readonly number[]> {
  const pieces: Uint8Array[] = [];
  const named = [{ name: "w", ...tensor }];
  for await (const piece of gatherPieces({ store: newStore(), prefix: "" }, named, new AbortController().signal)) {
    pieces.push(piece.slice());
  }
  return [...new Float32Array(new Uint8Array(Buffer.concat(pieces)).buffer)];
}

suite("a tensor-parallel rank's slice", () => {
  test("takes its piece of every part, with rows of padding behind", async () => {
    const fused = counting([6, 1], { kind: "fragment", dim: 0, parts: [{ length: 4 }, { length: 2 }] });
    const slice = (rank: number) => sliceForRank(fused, fused, { rank, tp: 2, paddedRows: undefined });
    assert.deepEqual(await valuesOf(slice(0)), [1, 2, 5]);
    assert.deepEqual(await valuesOf(slice(1)), [3, 4, 6]);
    const words = counting([3, 2], { kind: "fragment", dim: 0 });
    const padded = sliceForRank(words, words, { rank: 1, tp: 2, paddedRows: 4 });
    assert.deepEqual(padded.shape, [2, 2]);
    assert.deepEqual(await valuesOf(padded), [5, 6, 0, 0]);
    const columns = counting([2, 4], { kind: "fragment", dim: 1 });
    assert.deepEqual(
      await valuesOf(sliceForRank(columns, columns, { rank: 1, tp: 2, paddedRows: undefined })),
      [3, 4, 7, 8],
    );
  });

  test("needs a pattern, and an axis that the ranks divide", () => {
    const unique = counting([4], { kind: "unique" });
    const cut = { rank: 0, tp: 2, paddedRows: undefined };
    assert.throws(() => sliceForRank(unique, unique, cut), { code: "UniversalPatternsMissing" });
    const odd = counting([3], { kind: "fragment", dim: 0 });
    assert.throws(() => sliceForRank(odd, odd, cut), { code: "UniversalShapeMismatch" });
  });
});

suite("data-parallel partitions", () => {
  test("of a flattened group are even, aligned to 2 x ranks, and hold every element once", () => {
    for (const ranks of [1, 2, 3, 4, 7]) {
      for (const counts of [[1], [5, 0, 7], [16, 3], [2, 2, 2, 2, 2, 1]]) {
        const partitions = cutFlattened(counts, ranks);
        const total = counts.reduce((sum, count) => sum + count, 0);
        const elements = partitions[0]?.elements ?? 0;
        assert.ok(partitions.every((partition) => partition.elements === elements));
        assert.equal((elements * ranks) % (2 * ranks), 0);
        const order = partitions.flatMap(({ pieces }, rank) =>
          pieces.flatMap(({ slice, first, count, start }) =>
            Array.from({ length: count }, (_, index) => `${slice}:${first + index}@${rank * elements + start + index}`),
          ),
        );
        const flat = counts.flatMap((count, slice) => Array.from({ length: count }, (_, index) => `${slice}:${index}`));
        assert.deepEqual(
          order,
          flat.map((name, index) => `${name}@${index}`),
        );
        assert.equal(order.length, total);
      }
    }
  });

  test("of single slices are as long on every rank, with padding behind each", async () => {
    const tensors = [counting([5], { kind: "replicated" }), counting([1], { kind: "replicated" })];
    const partitions = cutEach([5, 1], 3);
    assert.deepEqual(
      await Promise.all(partitions.map((partition) => valuesOf(flatTensor(partition, tensors, partition.elements)))),
      [
        [1, 2, 1],
        [3, 4, 0],
        [5, 0, 0],
      ],
    );
  });

  test("convert narrow floats, and back", async () => {
    const narrow = convertTensor(counting([3], { kind: "replicated" }), "BF16");
    assert.deepEqual(await valuesOf(convertTensor(narrow, "F32")), [1, 2, 3]);
  });
});

test("a vocabulary is padded as the source's trainer padded it", () => {
  const rows = (from: number, to: number, paddedRows: number, multiple?: number) =>
    vocabularyRows(50, paddedRows, { from, to, multiple });
  assert.equal(rows(2, 1, 64), 56);
  assert.equal(rows(1, 2, 56), 64);
  assert.equal(rows(2, 2, 64), 64);
  assert.equal(rows(1, 4, 50), 52);
  assert.equal(rows(1, 3, 77), 78);
  assert.equal(rows(2, 4, 64, 128), 512);
});
