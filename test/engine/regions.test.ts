// Regions of a merge unit with derived files: every file is covered once, in order, by parts that a store takes.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { DerivedTensor, MergeUnit } from "../../core/plan/schema.ts";
import { cutRegions } from "../../engine/regions.ts";

const MIB = 2 ** 20;

/** Tensors of these sizes in MiB; a derived file of `share` of each, without the tensors in `without`. */
function unitOf(sizes: readonly number[], share: number, without: readonly number[]): MergeUnit {
  let [offset, at] = [0, 64];
  const derivedTensors: DerivedTensor[] = [];
  const tensors = sizes.map((size, tensor) => {
    const bytes = size * MIB;
    if (!without.includes(tensor)) {
      const own = Math.floor((bytes * share) / 32) * 32;
      derivedTensors.push({ name: `d${tensor}`, tensor, shape: [32], scheme: "q8_0", offset: at, bytes: own });
      at += own;
    }
    const place = { name: `t${tensor}`, dtype: "BF16" as const, shape: [bytes / 2], offset, bytes };
    offset += bytes;
    return { ...place, method: "copy", parameters: {}, seed: 0, inputs: [] };
  });
  const derived = {
    format: "gguf" as const,
    output: "gguf q8_0",
    file: "d.gguf",
    fileBytes: at,
    header: "",
    tensors: derivedTensors,
  };
  return {
    op: "merge",
    stage: 0,
    index: 0,
    peakBytes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    file: "model.safetensors",
    fileBytes: 100 + offset,
    tensors,
    derived: [derived, { ...derived, file: "e.gguf" }],
    nonFinite: "error",
    strict: false,
    statistics: false,
  };
}

test("regions cover every file of a unit exactly, none but the last smaller than a store takes", () => {
  for (const sizes of [[1], [30, 30, 30], Array.from({ length: 40 }, (_, i) => 3 + (i % 5)), [100, 1, 1, 1]]) {
    for (const share of [0.1, 0.27, 0.53, 1]) {
      for (const without of [[], [0], [sizes.length - 1], [1, 2, 3]]) {
        for (const threads of [1, 4]) {
          const unit = unitOf(sizes, share, without);
          const regions = cutRegions(unit, threads);
          assert.deepEqual(
            regions.flatMap(({ firstTensor, endTensor }) => unit.tensors.slice(firstTensor, endTensor)),
            unit.tensors,
          );
          const files = [
            { bytes: unit.fileBytes, spans: regions },
            ...unit.derived.map((file, index) => ({
              bytes: file.fileBytes,
              spans: regions.flatMap(({ derived }) => derived.slice(index, index + 1)),
            })),
          ];
          for (const { bytes, spans } of files) {
            let end = 0;
            for (const [index, span] of spans.entries()) {
              assert.equal(span.offset, end);
              assert.ok(span.bytes > 0 || bytes === 0);
              assert.ok(index === spans.length - 1 || span.bytes >= 5 * MIB, `${span.bytes} bytes`);
              end += span.bytes;
            }
            assert.equal(end, bytes);
          }
        }
      }
    }
  }
});

test("tensors that are measured together lie in one region, whatever lies between them", () => {
  const sizes = Array.from({ length: 24 }, () => 9);
  const unit = unitOf(sizes, 1, []);
  const fused = [
    [2, 3, 9],
    [10, 11],
    [23, 20],
  ];
  const tensors = unit.tensors.map(({ shape, offset, bytes }, tensor) => {
    const parts = [{ name: `p${tensor}`, dtype: "I8" as const, shape: [bytes], offset: 64 + offset, bytes }];
    const set = fused.find((own) => own.includes(tensor));
    const place = { tensor, shape, offset: 64 + offset, bytes, parts };
    return set === undefined ? place : { ...place, fused: set };
  });
  const file = { output: "", file: "p", fileBytes: 64 + unit.fileBytes - 100, header: "" };
  const regions = cutRegions({ ...unit, derived: [{ ...file, format: "safetensors", tensors }] }, 8);
  assert.ok(regions.length > 6);
  const regionOf = (tensor: number) => regions.findIndex(({ endTensor }) => tensor < endTensor);
  for (const set of fused) assert.equal(new Set(set.map(regionOf)).size, 1, set.join());
  assert.equal(regions.at(-1)?.endTensor, 24);
});
