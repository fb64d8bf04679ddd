// The kernels of a thread, which stay for its next region.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createKernelKeeper } from "../../workers/region-job.ts";

test("kernels are kept; where more memory is asked for, theirs grows instead of being had twice", async () => {
  const kernelsFor = createKernelKeeper();
  const small = await kernelsFor(2 ** 20);
  assert.equal(await kernelsFor(2 ** 19), small);
  const { bytes } = small.allocateBlock(2 ** 20);
  const large = await kernelsFor(2 ** 24);
  assert.ok(bytes.buffer instanceof ArrayBuffer && bytes.buffer.detached, "the memory of the first is the second's");
  const tile = large.allocateTile(2 ** 22);
  large.fill(tile, 3, 2 ** 22);
  assert.equal(tile.values.at(-1), 3);
  assert.throws(() => large.allocateBlock(2 ** 20), { code: "KernelMemoryExhausted" });
});
