// `convert --dtype`: weights alone in another dtype, from the master weights, rounded once to nearest, ties to even.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { HF_METADATA } from "../../core/formats/safetensors/shard-plan.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys } from "../../steps/records.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, putText } from "./deps.ts";
import { convertInto, goldenStore } from "./folders.ts";

/** Float32 bits, and the nearest bfloat16 and float16: ties go to the even one. */
const ROUNDED = [
  [0x3f808000, 0x3f80, 0x3c04],
  [0x3f818000, 0x3f82, 0x3c0c],
  [0x3f808001, 0x3f81, 0x3c04],
  [0x3f801000, 0x3f80, 0x3c00],
  [0x3f803000, 0x3f80, 0x3c02],
  [0x33800000, 0x3380, 0x0001],
  [0x33000000, 0x3300, 0x0000],
  [0x477ff000, 0x4780, 0x7c00],
  [0x80000000, 0x8000, 0x8000],
  [0x7f800000, 0x7f80, 0x7c00],
] as const;

/** A folder of one float tensor and one of integers, with a config of float32. */
async function putFolder(): Promise<ObjectStore> {
  const store = newStore();
  const { header, fileBytes } = encodeSafetensorsHeader(
    [
      { name: "count", dtype: "I64", shape: [1] },
      { name: "w", dtype: "F32", shape: [ROUNDED.length] },
    ],
    HF_METADATA,
  );
  const bytes = Buffer.alloc(fileBytes);
  bytes.set(header);
  bytes.writeBigInt64LE(7n, header.length);
  ROUNDED.forEach(([bits], index) => void bytes.writeUInt32LE(bits, header.length + 8 + 4 * index));
  await writeBytes(store, "model.safetensors", bytes);
  await putText(store, "config.json", JSON.stringify({ model_type: "llama", torch_dtype: "float32" }));
  return store;
}

async function bytesOf(store: ObjectStore, tensor: string): Promise<Buffer> {
  const { checkpoint } = await openCheckpoint(store, "");
  const [range] = checkpoint.tensors.find(({ name }) => name === tensor)?.ranges ?? [];
  assert.ok(range !== undefined, tensor);
  const into = new Uint8Array(range.bytes);
  await store.readInto(range.file, range.offset, into);
  return Buffer.from(into);
}

suite("weights in another dtype", () => {
  for (const to of ["safetensors", "torch", "dcp"] as const) {
    test(`are rounded once to nearest, ties to even: ${to}`, async () => {
      const source = await putFolder();
      for (const [dtype, column, name] of [
        ["BF16", 1, "bfloat16"],
        ["F16", 2, "float16"],
      ] as const) {
        const { target } = await convertInto(source, to, { dtype });
        const halves = await bytesOf(target, "w");
        assert.deepEqual(
          ROUNDED.map((_, index) => halves.readUInt16LE(2 * index)),
          ROUNDED.map((row) => row[column]),
        );
        assert.equal((await bytesOf(target, "count")).readBigInt64LE(), 7n);
        const config = JSON.parse(Buffer.from(await readAll(target, "config.json", 1e6)).toString());
        assert.deepEqual(config, { model_type: "llama", torch_dtype: name });
      }
    });
  }

  test("come from master weights of a training checkpoint, without its states", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const { target: whole } = await convertInto(source, "safetensors");
    for (const from of [source, (await convertInto(source, "universal")).target]) {
      const { target } = await convertInto(from, "safetensors", { dtype: "BF16" });
      assert.deepEqual(await listKeys(target, ""), ["model.safetensors"]);
      const name = "2.input_layernorm.weight";
      const master = await bytesOf(whole, name);
      const rounded = await bytesOf(target, name);
      assert.equal(rounded.length, master.length / 2);
      for (let at = 0; at < rounded.length; at += 2) {
        // The upper half, one more where the lower half is beyond its middle, or at it and the upper one odd.
        const [high, low] = [master.readUInt16LE(2 * at + 2), master.readUInt16LE(2 * at)];
        const up = low > 0x8000 || (low === 0x8000 && high % 2 === 1) ? 1 : 0;
        assert.equal(rounded.readUInt16LE(at), high + up);
      }
    }
  });

  test("replace shards and their index, whose names were the source's", async () => {
    const source = newStore();
    const root = join(import.meta.dirname, "../golden/safetensors/valid/sharded");
    const index: { weight_map: Record<string, string> } = JSON.parse(
      readFileSync(join(root, "model.safetensors.index.json"), "utf8"),
    );
    for (const name of new Set(["model.safetensors.index.json", ...Object.values(index.weight_map)])) {
      await source.create(name, readFileSync(join(root, name)));
    }
    const { target, output } = await convertInto(source, "safetensors", { dtype: "F32" });
    assert.deepEqual(await listKeys(target, ""), ["model.safetensors"]);
    assert.equal(output.tensors, Object.keys(index.weight_map).length);
  });

  test("are refused where the format keeps master weights", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    for (const to of ["universal", "deepspeed-universal"] as const) {
      await assert.rejects(convertInto(source, to, { dtype: "F16" }), { code: "ConvertDtypeRefused" });
    }
  });

  test("of ranks change what they compute with, and neither masters nor moments", async () => {
    const source = await goldenStore("deepspeed/z2_tp1_pp1_dp3_fp32_padding");
    const { output: before } = await convertInto(source, "universal");
    for (const [dtype, prefix] of [
      ["BF16", "bf16_"],
      ["F16", ""],
    ] as const) {
      for (const zero of [2, 3] as const) {
        const { target } = await convertInto(source, "deepspeed", { dtype, topology: { tp: 1, pp: 1, dp: 2, zero } });
        const names = await listKeys(target, "");
        assert.ok(names.includes(`global_step3/${prefix}zero_pp_rank_1_mp_rank_00_optim_states.pt`), names.join());
        const { training } = await openCheckpoint(target, "");
        assert.deepEqual([training?.weights, training?.topology?.zero], [dtype, zero]);
        const scaler = Reflect.get(Object(training?.optimizer.loss_scaler), "class");
        assert.equal(scaler, zero === 2 ? undefined : dtype === "F16" ? "DynamicLossScaler" : "LossScaler");
        // The vocabulary's padding stays, as the reader leaves it in stage 3.
        if (zero === 2) assert.equal((await convertInto(target, "universal")).output.contents, before.contents);
      }
    }
  });
});
