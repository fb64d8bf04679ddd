// The sample of a search: how much of a tensor it reads before the one pass that counts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createCutSearch, searchBytes } from "../../../core/methods/sparsify/order-statistic.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";

function sampleOf(total: number): readonly { readonly first: number; readonly count: number }[] | undefined {
  const kernels = createScalarKernels(searchBytes(total, 2, 1));
  return createCutSearch(kernels, total, [[total / 2], [total / 2]]).passes[0]?.spans;
}

test("a sample grows with the square of a large tensor, and is a small part of it", () => {
  const elementsOf = (total: number) => sampleOf(total)?.reduce((sum, { count }) => sum + count, 0) ?? 0;
  assert.equal(sampleOf(2 ** 18), undefined, "all of the tensor");
  assert.equal(elementsOf(2 ** 18 + 2), 2 ** 18);
  assert.equal(elementsOf(45 * 2 ** 20), 2 ** 18);
  const [large, larger] = [elementsOf(2 ** 30), elementsOf(2 ** 31)];
  assert.ok(Math.abs(larger / large - 4) < 0.1, `${large}, ${larger}`);
  assert.ok(larger < 2 ** 31 / 400, `${larger}`);
});

test("spans are spread evenly, within the tensor, and do not overlap", () => {
  const total = 2 ** 30 + 8;
  const spans = sampleOf(total) ?? [];
  const ends = spans.map(({ first, count }) => first + count);
  assert.ok(spans.every(({ first }, index) => first >= (ends[index - 1] ?? 0)));
  assert.ok((ends.at(-1) ?? Number.POSITIVE_INFINITY) <= total);
  const gaps = spans.slice(1).map(({ first }, index) => first - (spans[index]?.first ?? 0));
  assert.ok(Math.max(...gaps) - Math.min(...gaps) <= 1);
});
