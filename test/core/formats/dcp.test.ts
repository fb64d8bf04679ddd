// Distributed checkpoints of torch: chunks that tile, and a code for every way in which they do not.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { dcp } from "../../../core/formats/dcp/dcp.ts";
import { encodeSafetensorsHeader } from "../../../core/formats/safetensors/safetensors.ts";
import { runGolden } from "../../../tools/golden.ts";
import { memoryFolder } from "./folder.ts";
import { dict, int, type Op, ops, pickleOf, tensor, text, torchOf, tuple } from "./torch-parts.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/dcp");
type Files = Readonly<Record<string, Uint8Array>>;

const load = (name: string): Files =>
  Object.fromEntries(readdirSync(join(GOLDEN, name)).map((file) => [file, readFileSync(join(GOLDEN, name, file))]));
const refuses = (code: string, files: Files) => assert.rejects(dcp.open(memoryFolder(files)), { code });

const METADATA = "torch.distributed.checkpoint.metadata";
const record = (type: string, ...fields: readonly (readonly [string, Op])[]) =>
  ops(`c${type}\n)\x81`, dict(...fields), "b");
const size = (...lengths: number[]) => ops("ctorch\nSize\n", tuple(...lengths.map(int)), "\x85R");

type Claims = {
  dtype?: string;
  path?: string | undefined;
  transform?: boolean;
  lengths?: number[];
  placed?: number;
  row?: number;
  rows?: number;
};

/** A checkpoint of one tensor in one chunk, as torch would write it but for what `claims` says. */
const one = (claims: Claims = {}): Files => several([["w"]], claims);

/** The same with a tensor at each of these paths through the trainer's dicts, each in a file of its own. */
function several(paths: readonly (readonly string[])[], claims: Claims): Files {
  const names = paths.map((_, index) => `__0_${index}.distcp`);
  const entries = paths.map((path, index) => entry(path.join("."), { path: names[index], ...claims }));
  const pairs = (part: (one: Entry) => readonly [Op, Op]) => ops("}(", ...entries.flatMap(part), "u");
  const planned = paths.map((path) => [text(path.join(".")), tuple(...path.map(text))] as const);
  const metadata = record(
    `${METADATA}\nMetadata`,
    ["state_dict_metadata", pairs(({ name, storage }) => [name, storage])],
    ["planner_data", ops("}(", ...planned.flat(), "u")],
    ["storage_data", pairs(({ index, info }) => [index, info])],
  );
  return {
    ".metadata": pickleOf(metadata),
    ...Object.fromEntries(entries.map(({ payload }, i) => [names[i], payload])),
  };
}

type Entry = Readonly<Record<"name" | "storage" | "index" | "info" | "payload", Uint8Array>>;

const PAYLOAD = torchOf(tensor({ count: 6, size: [2, 3], stride: [3, 1] }), { 0: new Uint8Array(24) });
/** The count of steps. */
const SCALAR = torchOf(tensor({ count: 1, size: [], stride: [] }), { 0: new Uint8Array(4) });

function entry(
  name: string,
  { dtype = "float32", path = "__0_0.distcp", transform = false, lengths, placed = 0, row = 0, rows }: Claims,
): Entry {
  const payload = name.endsWith(".step") ? SCALAR : PAYLOAD;
  const sizes = lengths ?? (payload === SCALAR ? [] : [2, 3]);
  const offsets = (first: number) => size(...sizes.map((_, axis) => (axis === 0 ? first : 0)));
  const properties = ops(`c${METADATA}\nTensorProperties\n)\x81`, tuple(`ctorch\n${dtype}\n`), "b");
  const chunk = record(`${METADATA}\nChunkStorageMetadata`, ["offsets", offsets(row)], ["sizes", size(...sizes)]);
  const storage = record(
    `${METADATA}\nTensorStorageMetadata`,
    ["properties", properties],
    ["size", size(...sizes.map((length, axis) => (axis === 0 ? (rows ?? length) : length)))],
    ["chunks", ops("](", chunk, "e")],
  );
  const index = record(`${METADATA}\nMetadataIndex`, ["fqn", text(name)], ["offset", offsets(placed + row)]);
  const info = record(
    "torch.distributed.checkpoint.filesystem\n_StorageInfo",
    ["relative_path", text(path)],
    ["offset", int(0)],
    ["length", int(payload.length)],
    ["transform_descriptors", transform ? ops("](", text("zstd"), "e") : "N"],
  );
  return { name: text(name), storage, index, info, payload };
}

suite("distributed checkpoints", () => {
  test("give the whole tensors, and are refused for the golden set's reasons", async () => {
    assert.deepEqual(await runGolden(GOLDEN), { passed: 11, failed: [], skipped: [] });
  });

  test("are refused with the code of what is damaged", async () => {
    const codes = {
      bad_hole: "DcpChunksInvalid",
      bad_overlap: "DcpChunksInvalid",
      bad_size_disagrees: "DcpChunksInvalid",
      bad_offset_past_end: "DcpChunkOutOfFile",
      bad_missing_distcp: "DcpFileMissing",
      bad_path_traversal: "DcpPathInvalid",
      bad_no_metadata: "DcpMetadataMissing",
      bad_hostile_metadata: "PickleGlobalRefused",
    };
    for (const [name, code] of Object.entries(codes)) await refuses(code, load(name));
  });

  test("of one hand-made chunk open, and are refused when it is not what it claims", async () => {
    const opened = await dcp.open(memoryFolder(one()));
    assert.deepEqual(
      opened.checkpoint.tensors.map(({ name, shape }) => [name, shape]),
      [["w", [2, 3]]],
    );
    await refuses("DcpChunkMismatch", one({ dtype: "bfloat16" }));
    await refuses("DcpChunkMismatch", one({ lengths: [3, 2] }));
    await refuses("DcpUnsupported", one({ transform: true }));
    await refuses("DcpMetadataInvalid", one({ placed: 1 }));
    await refuses("TorchDtypeUnsupported", one({ dtype: "complex128" }));
    for (const path of ["../x", "/x", "a/../b", "", "a\\b"]) await refuses("DcpPathInvalid", one({ path }));
    await refuses("DcpMetadataInvalid", { ".metadata": pickleOf(dict()) });
    await refuses("PickleTrailing", { ...one(), ".metadata": Buffer.concat([pickleOf(dict()), Buffer.from("x")]) });
  });

  test("give the model's own names where one dict is the model, and say what they leave out", async () => {
    const opened = async (...paths: readonly (readonly string[])[]) => {
      const { checkpoint, warnings } = await dcp.open(memoryFolder(several(paths, {})));
      return [checkpoint.tensors.map(({ name }) => name), warnings.map(({ code, found }) => [code, found])];
    };
    const weight = ["model", "up.weight"];
    const momentum = ["optim", "state", "up.weight", "momentum_buffer"];
    const left = [["TensorsIgnored", momentum.join(".")]];
    assert.deepEqual(await opened(weight), [["up.weight"], []]);
    assert.deepEqual(await opened(momentum, ["app", ...weight]), [["up.weight"], left]);
    const adam = ["exp_avg", "exp_avg_sq", "step", "max_exp_avg_sq"].map((state) => [
      "optim",
      "state",
      "up.weight",
      state,
    ]);
    const trained = await dcp.open(memoryFolder(several([weight, ...adam], {})));
    assert.equal(trained.conversion?.[0]?.training?.step, 0);
    assert.deepEqual(
      trained.warnings.map(({ code, found }) => [code, found]),
      [["OptimizerStateIgnored", "max_exp_avg_sq"]],
    );
    // Two models, dicts inside of one, and a tensor beside them: nothing says which are the model's.
    for (const other of [["state_dict", "up.weight"], ["model", "up", "bias"], ["bias"]]) {
      assert.deepEqual(await opened(weight, other), [["model.up.weight", other.join(".")], []]);
    }
  });

  test("of torch 1.13 name the same classes of another module", async () => {
    const { ".metadata": document = PAYLOAD, ...payload } = one();
    const renamed = Buffer.from(document)
      .toString("latin1")
      .replaceAll("distributed.checkpoint", "distributed._shard.checkpoint");
    const { checkpoint } = await dcp.open(memoryFolder({ ...payload, ".metadata": Buffer.from(renamed, "latin1") }));
    assert.deepEqual(
      checkpoint.tensors.map(({ name }) => name),
      ["w"],
    );
  });

  test("of ranks that saved apart are joined from the document of each", async () => {
    const rank = (number: number): Files => {
      const { ".metadata": document, "__0_0.distcp": payload } = one({
        path: `__${number}_0.distcp`,
        row: 2 * number,
        rows: 4,
      });
      return { [`__${number}.metadata`]: document ?? PAYLOAD, [`__${number}_0.distcp`]: payload ?? PAYLOAD };
    };
    const opened = await dcp.open(memoryFolder({ ...rank(1), ...rank(0) }));
    assert.deepEqual(
      opened.checkpoint.tensors.map(({ shape, ranges }) => [shape, ranges.map(({ file }) => file)]),
      [
        [
          [4, 3],
          ["__0_0.distcp", "__1_0.distcp"],
        ],
      ],
    );
    assert.equal(opened.checkpoint.tensorFiles.length, 4);
    await refuses("DcpChunksInvalid", rank(0));
    // What both hold is read from the first.
    const { ".metadata": whole = PAYLOAD, ...first } = one();
    const { ".metadata": again = PAYLOAD } = one({ path: "__1_0.distcp" });
    const both = { ...first, "__0.metadata": whole, "__1.metadata": again, "__1_0.distcp": PAYLOAD };
    const { checkpoint } = await dcp.open(memoryFolder(both));
    assert.deepEqual(
      checkpoint.tensors[0]?.ranges.map(({ file }) => file),
      ["__0_0.distcp"],
    );
  });

  test("are refused where FSDP's parameters are flat, or files are safetensors by another name", async () => {
    for (const name of ["_flat_param", "layers.0._flat_param", "flat_param_1"]) {
      await refuses("DcpUnsupported", several([["model", name]], {}));
    }
    const { header } = encodeSafetensorsHeader([{ name: "w", dtype: "F32", shape: [0] }], new Map());
    await refuses("DcpUnsupported", { ...one(), "__0_0.distcp": Buffer.concat([header, PAYLOAD]) });
  });

  test("of sharded safetensors join by their offsets and miss no shard", async () => {
    const shard = (lengths: number[], sharding: unknown, dtype: "F32" | "F16" = "F32"): Uint8Array => {
      const metadata = new Map([["DCP_SHARDING_INFO", JSON.stringify(sharding)]]);
      const { header, fileBytes } = encodeSafetensorsHeader([{ name: "w", dtype, shape: lengths }], metadata);
      return Buffer.concat([header, new Uint8Array(fileBytes - header.length)]);
    };
    const at = (...offsets: number[]) => ({ w: { saved_offsets: offsets } });
    const named = (...shards: Uint8Array[]): Files =>
      Object.fromEntries(
        shards.map((bytes, index) => [`shard-0000${index + 1}-model-00001-of-00001.safetensors`, bytes]),
      );
    const opened = await dcp.open(memoryFolder(named(shard([1, 2], at(0, 0)), shard([2, 2], at(1, 0)))));
    assert.deepEqual(opened.checkpoint.tensors[0]?.shape, [3, 2]);
    await refuses("DcpChunksInvalid", named(shard([1, 2], at(0, 0)), shard([1, 2], at(2, 0))));
    await refuses("DcpChunkMismatch", named(shard([1, 2], at(0, 0)), shard([1, 2], at(1, 0), "F16")));
    await refuses("DcpMetadataInvalid", named(shard([1, 2], at(0))));
    await refuses("DcpMetadataInvalid", named(shard([1, 2], { w: {} })));
    const { "shard-00002-model-00001-of-00001.safetensors": second = new Uint8Array(0) } = named(
      shard([1, 2], at(0, 0)),
      shard([1, 2], at(1, 0)),
    );
    await refuses("DcpFileMissing", { "shard-00002-model-00001-of-00001.safetensors": second });
  });
});
