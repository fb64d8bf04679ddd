// Goal: the parts executor makes the same shards and measures the same losses for any number of threads, within its
// memory, or leaves nothing. Method: a model of several regions on disk, under schemes whose parts lie side by side,
// apart, and under one scale for several tensors.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { hasCode } from "../../core/error.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { planCompressedModel } from "../../core/plan/compressed-model.ts";
import { COMPRESSED_SCHEMES } from "../../core/schemes/registry.ts";
import { cutParts } from "../../engine/parts-regions.ts";
import type { PartsRequest } from "../../engine/parts-request.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createPartsExecutor } from "../../workers/parts-executor.ts";

const openStore = createStoreOpener({});
const executor = createPartsExecutor(openStore);
const LAYERS = 6;
const options = { signal: new AbortController().signal };

let folder = "";

before(() => {
  folder = mkdtempSync(join(tmpdir(), "mergeyard-parts-"));
  mkdirSync(join(folder, "model"));
  const specs = Array.from({ length: LAYERS }, (_, layer) => [
    { name: `model.layers.${layer}.mlp.down_proj.weight`, dtype: "BF16" as const, shape: [1024, 2048] },
    { name: `model.layers.${layer}.mlp.gate_proj.weight`, dtype: "BF16" as const, shape: [1024, 2048] },
    { name: `model.layers.${layer}.mlp.up_proj.weight`, dtype: "BF16" as const, shape: [1023, 2048] },
    { name: `model.layers.${layer}.input_layernorm.weight`, dtype: "BF16" as const, shape: [1023] },
  ]).flat();
  const { header, fileBytes } = encodeSafetensorsHeader(specs);
  const file = new Uint8Array(fileBytes);
  file.set(header);
  // Upper halves of float32 of changing sign, size and last bits.
  for (let at = header.length, i = 0; at < fileBytes; at += 2, i++) {
    const half = 0x3c00 + ((i * 40503 + (i >> 21)) & 0x81ff);
    file[at] = half & 0xff;
    file[at + 1] = half >> 8;
  }
  writeFileSync(join(folder, "model/model.safetensors"), file);
  writeFileSync(join(folder, "model/config.json"), JSON.stringify({ model_type: "llama", vocab_size: 6 }));
});
after(async () => {
  await executor.close();
  rmSync(folder, { recursive: true });
});

async function requestOf(scheme: string, threads: number, out: string, shardBytes = 2 ** 40): Promise<PartsRequest> {
  const source = pathToFileURL(join(folder, "model")).href;
  const { checkpoint } = await openCheckpoint(openStore(source), "");
  const form = COMPRESSED_SCHEMES.get(scheme);
  assert.ok(form !== undefined);
  mkdirSync(join(folder, out));
  const target = pathToFileURL(join(folder, out)).href;
  const model = planCompressedModel(checkpoint, () => form, [], shardBytes);
  return { source, target, model, threads, memoryBytes: 512 * 2 ** 20 };
}

async function filesIn(out: string): Promise<readonly string[]> {
  const store = openStore(pathToFileURL(join(folder, out)).href);
  return (await Array.fromAsync(store.list(""))).map(({ key }) => key);
}

async function digestsIn(out: string): Promise<readonly string[]> {
  const digest = (name: string) =>
    createHash("sha256")
      .update(readFileSync(join(folder, out, name)))
      .digest("hex");
  return (await filesIn(out)).map((name) => `${name} ${digest(name)}`);
}

test("any number of threads gives the same bytes and the same losses, in one shard or several", async () => {
  for (const [scheme, shardBytes] of [
    ["fp8_tensor", undefined],
    ["fp8_dynamic", 20 * 2 ** 20],
    ["int4_group32_asym", undefined],
  ] as const) {
    const made: unknown[] = [];
    for (const threads of [1, 2, 5]) {
      const out = `${scheme}-${threads}`;
      const request = await requestOf(scheme, threads, out, shardBytes);
      const { losses, bytesWritten, threads: used } = await executor.execute(request, options);
      const [regions = []] = request.model.shards.map((shard) => cutParts(shard, request.model.units, threads));
      assert.ok(regions.length > 1, "several regions");
      assert.equal(used, threads);
      assert.equal(losses.length, 3 * LAYERS);
      assert.equal(
        bytesWritten,
        request.model.shards.reduce((sum, { fileBytes, header }) => sum + fileBytes - header.length, 0),
      );
      made.push({ files: await digestsIn(out), losses });
      rmSync(join(folder, out), { recursive: true });
    }
    assert.deepEqual(made[1], made[0]);
    assert.deepEqual(made[2], made[0]);
  }
});

test("regions cover a shard, and what lies apart from its unit is in the last", async () => {
  for (const scheme of ["fp8_tensor", "int8_dynamic"]) {
    const { model } = await requestOf(scheme, 1, `cut-${scheme}`);
    for (const threads of [1, 7, 1024]) {
      const [shard] = model.shards;
      assert.ok(shard !== undefined);
      const regions = cutParts(shard, model.units, threads);
      let end = 0;
      const begun = new Set<unknown>();
      for (const [index, { offset, bytes, tensors, isLate }] of regions.entries()) {
        assert.equal(offset, end);
        end += bytes;
        assert.ok(bytes >= 5 * 2 ** 20 || index === regions.length - 1);
        assert.equal(
          isLate,
          tensors.some(({ unit }) => begun.has(unit)),
        );
        assert.ok(!isLate || index === regions.length - 1);
        for (const { unit } of tensors) begun.add(unit);
      }
      assert.equal(end, shard.fileBytes);
    }
    rmSync(join(folder, `cut-${scheme}`), { recursive: true });
  }
});

test("fewer threads run where memory is small, and none below the least", async () => {
  const request = await requestOf("int8_dynamic", 8, "small");
  const refused = executor.execute({ ...request, memoryBytes: 2 ** 20 }, options);
  const least = await refused.then(
    () => assert.fail("it was not refused"),
    (error: unknown) => {
      assert.ok(hasCode(error, "EngineMemoryTooSmall"));
      return Number(/\d+/.exec(error.expected ?? "")?.[0]);
    },
  );
  assert.deepEqual(await filesIn("small"), []);
  const { threads } = await executor.execute({ ...request, memoryBytes: least }, options);
  assert.equal(threads, 1);
});

test("a failure in one region leaves no shard", async () => {
  const request = await requestOf("int8_dynamic", 2, "broken");
  const units = request.model.units.map((unit, index) => {
    if (index !== request.model.units.length - 1) return unit;
    const ranges = unit.entry.ranges.map((range) => ({ ...range, offset: range.offset + 2 ** 30 }));
    return { ...unit, entry: { ...unit.entry, ranges } };
  });
  await assert.rejects(executor.execute({ ...request, model: { ...request.model, units } }, options), {
    code: "StoreShortRead",
  });
  assert.deepEqual(await filesIn("broken"), []);
});
