// Folders of safetensors: which files are the model, what travels beside them, and every way a folder can be torn.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { type ErrorCode, MergeyardError } from "../../../core/error.ts";
import { describeWarning } from "../../../core/formats/format.ts";
import { readHeaders, safetensors } from "../../../core/formats/safetensors/folder.ts";
import { encodeSafetensorsHeader, type TensorSpec } from "../../../core/formats/safetensors/safetensors.ts";
import { fileRole } from "../../../core/formats/side-files.ts";
import { memoryFolder } from "./folder.ts";

/** A safetensors file of zeros with one U8 tensor of 4 elements per name. */
function makeFile(names: readonly string[], metadata: Readonly<Record<string, string>> = { format: "pt" }): Uint8Array {
  const specs = names.map((name): TensorSpec => ({ name, dtype: "U8", shape: [4] }));
  const { header, fileBytes } = encodeSafetensorsHeader(specs, new Map(Object.entries(metadata)));
  const file = new Uint8Array(fileBytes);
  file.set(header);
  return file;
}

function makeIndex(weightMap: Readonly<Record<string, string>>, metadata: unknown = { total_size: 8 }): string {
  return JSON.stringify({ metadata, weight_map: weightMap });
}

const SHARD_1 = "model-00001-of-00002.safetensors";
const SHARD_2 = "model-00002-of-00002.safetensors";
const INDEX = "model.safetensors.index.json";
const SHARDED = {
  [SHARD_1]: makeFile(["a"]),
  [SHARD_2]: makeFile(["b"], { format: "pt", note: "second" }),
  [INDEX]: makeIndex({ a: SHARD_1, b: SHARD_2 }),
};

async function open(files: Readonly<Record<string, Uint8Array | string>>) {
  return safetensors.open(memoryFolder(files));
}

async function refused(files: Readonly<Record<string, Uint8Array | string>>, code: ErrorCode): Promise<MergeyardError> {
  try {
    await open(files);
  } catch (error) {
    assert.ok(error instanceof MergeyardError, String(error));
    assert.equal(error.code, code);
    return error;
  }
  throw new Error(`${code} expected`);
}

suite("which files are the model", () => {
  test("model.safetensors, whatever other weights lie beside it", async () => {
    const { checkpoint, warnings } = await open({
      "model.safetensors": makeFile(["a"]),
      "consolidated.safetensors": makeFile(["x"]),
      "pytorch_model.bin": "",
      "optimizer.pt": "",
    });
    assert.deepEqual(
      checkpoint.tensorFiles.map(({ name }) => name),
      ["model.safetensors"],
    );
    assert.deepEqual(
      warnings.map(({ code, where }) => [code, where.file]),
      [
        ["FileIgnored", "consolidated.safetensors"],
        ["FileIgnored", "optimizer.pt"],
        ["FileIgnored", "pytorch_model.bin"],
      ],
    );
    assert.match(describeWarning(warnings[0] ?? assert.fail()), /^FileIgnored: .*consolidated\.safetensors/);
  });

  test("model.safetensors beside a trainer's step, with a warning that names it", async () => {
    const rank = "global_step5/mp_rank_00_model_states.pt";
    const { warnings } = await open({ "model.safetensors": makeFile(["a"]), [rank]: "" });
    assert.deepEqual(warnings, [{ code: "TrainingStateBeside", where: { file: rank } }]);
  });

  test("the shards that the index names, in name order, with their metadata together", async () => {
    const { checkpoint, warnings, headers, digest } = await open({ ...SHARDED, "consolidated.safetensors": "" });
    assert.deepEqual(
      checkpoint.tensors.map(({ name, ranges }) => [name, ranges[0]?.file]),
      [
        ["a", SHARD_1],
        ["b", SHARD_2],
      ],
    );
    assert.deepEqual(Object.fromEntries(checkpoint.metadata), { format: "pt", note: "second" });
    assert.deepEqual([...headers.keys()], [SHARD_1, SHARD_2]);
    assert.equal(digest, undefined);
    assert.deepEqual(
      warnings.map(({ where }) => where.file),
      ["consolidated.safetensors"],
    );
  });

  test("consolidated.safetensors, or a single file of any name", async () => {
    for (const name of ["consolidated.safetensors", "adapter_model.safetensors", "weights.safetensors"]) {
      const { checkpoint } = await open({ [name]: makeFile(["a"]) });
      assert.deepEqual(checkpoint.tensorFiles, [{ name, bytes: makeFile(["a"]).length }]);
    }
  });

  test("an index of another name, when it is the only one", async () => {
    const shard = "diffusion_model-00001-of-00001.safetensors";
    const { checkpoint } = await open({
      [shard]: makeFile(["a"]),
      "diffusion_model.safetensors.index.json": makeIndex({ a: shard }, {}),
    });
    assert.equal(checkpoint.tensors.length, 1);
  });

  test("nothing is guessed", async () => {
    const a = makeFile(["a"]);
    await refused({ "x.safetensors": a, "y.safetensors": a }, "CheckpointAmbiguous");
    await refused({ ...SHARDED, "model.safetensors": a }, "CheckpointAmbiguous");
    await refused({ "a.safetensors.index.json": "", "b.safetensors.index.json": "" }, "CheckpointAmbiguous");
    const { where } = await refused({ [SHARD_1]: a, [SHARD_2]: a }, "CheckpointIndexMissing");
    assert.equal(where.file, SHARD_1);
    await refused({ [SHARD_1]: a }, "CheckpointIndexMissing");
  });

  test("files in folders below are not looked at", async () => {
    const { checkpoint, warnings } = await open({
      "model.safetensors": makeFile(["a"]),
      "original/consolidated.safetensors": "",
      "original/params.json": "",
    });
    assert.deepEqual([checkpoint.tensorFiles.length, checkpoint.sideFiles, warnings], [1, [], []]);
    assert.equal(safetensors.recognise([{ name: "below/model.safetensors", bytes: 8 }]), false);
  });
});

suite("a torn folder", () => {
  test("lacks a shard", async () => {
    const { [SHARD_2]: _, ...torn } = SHARDED;
    const error = await refused(torn, "CheckpointShardMissing");
    assert.deepEqual([error.where.file, error.found], [SHARD_2, "1 of 2 files"]);
  });

  test("has a shard of another upload", async () => {
    const left = "model-00003-of-00003.safetensors";
    const error = await refused({ ...SHARDED, [left]: makeFile(["c"]) }, "CheckpointShardUnexpected");
    assert.equal(error.where.file, left);
  });

  test("has a tensor elsewhere than the index says", async () => {
    const files = { ...SHARDED, [SHARD_1]: makeFile(["b"]), [SHARD_2]: makeFile(["a"]) };
    const { where, expected } = await refused(files, "CheckpointTensorMisplaced");
    assert.deepEqual([where.tensor, where.file, expected], ["a", SHARD_2, `${SHARD_1} by the index`]);
  });

  test("has a tensor in two shards", async () => {
    const { where } = await refused({ ...SHARDED, [SHARD_2]: makeFile(["a", "b"]) }, "CheckpointTensorRepeated");
    assert.deepEqual([where.tensor, where.file], ["a", SHARD_2]);
  });

  test("has an index that cannot be used", async () => {
    const cases: readonly (readonly [string, ErrorCode])[] = [
      ["", "CheckpointIndexNotJson"],
      ["{}", "CheckpointIndexInvalid"],
      ["[]", "CheckpointIndexInvalid"],
      ['{"weight_map":{}}', "CheckpointIndexInvalid"],
      ['{"weight_map":{"a":1}}', "CheckpointIndexInvalid"],
      [`{"weight_map":{"a":"${SHARD_1}","a":"${SHARD_1}"}}`, "CheckpointIndexNameRepeated"],
      [`{"weight_map":{"a":"${SHARD_1}"},"weight_map":{"a":"${SHARD_1}"}}`, "CheckpointIndexNameRepeated"],
      ['{"metadata":{"x":1,"x":2}}', "CheckpointIndexNameRepeated"],
      ['{"weight_map":{"a":"x/model.safetensors"}}', "CheckpointIndexFileNameInvalid"],
      ['{"weight_map":{"a":"..\\\\x"}}', "CheckpointIndexFileNameInvalid"],
      [`${"[".repeat(200)}`, "CheckpointIndexInvalid"],
      [`{"x":${"[".repeat(200)}`, "CheckpointIndexNotJson"],
    ];
    for (const [index, code] of cases) {
      const { where } = await refused({ ...SHARDED, [INDEX]: index }, code);
      assert.equal(where.file, INDEX);
    }
  });

  test("takes tensors of the names __proto__ and constructor from an index", async () => {
    const { checkpoint } = await open({
      [SHARD_1]: makeFile(["__proto__", "constructor"]),
      [INDEX]: `{"weight_map":{"__proto__":"${SHARD_1}","constructor":"${SHARD_1}"}}`,
    });
    assert.equal(checkpoint.tensors.length, 2);
  });
});

suite("what lies beside the weights", () => {
  test("has a role by its name", () => {
    const roles = {
      config: ["config.json"],
      generation: ["generation_config.json"],
      tokenizer: ["tokenizer.json", "tokenizer.model", "merges.txt", "special_tokens_map.json", "chat_template.jinja"],
      processor: ["preprocessor_config.json", "processor_config.json"],
      code: ["modeling_x.py"],
      card: ["README.md"],
      licence: ["LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md"],
      index: ["model.safetensors.index.json", "pytorch_model.bin.index.json", "x.safetensors.index.fp16.json"],
      record: ["manifest.json", "universal.json", "_COMPLETE"],
      adapter: ["adapter_config.json"],
      trainer: ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "latest"],
      weights: ["model.safetensors", "pytorch_model.bin", "x.gguf", "tf_model.h5", "flax_model.msgpack"],
      other: [".gitattributes", "params.json"],
    };
    for (const [role, names] of Object.entries(roles)) {
      for (const name of names) assert.equal(fileRole(name), role, name);
    }
  });

  test("travels when it is no weights, no trainer's leftover and no record of ours", async () => {
    const { checkpoint } = await open({
      ...SHARDED,
      "tokenizer.json": "{}",
      "README.md": "",
      "config.json": '{"model_type":"llama","time_step_limit":[0.5,Infinity]}',
      "trainer_state.json": "{}",
      "training_args.bin": "",
      "manifest.json": "{}",
      _COMPLETE: "",
    });
    assert.deepEqual(
      checkpoint.sideFiles.map(({ name }) => name),
      ["README.md", "config.json", INDEX, "tokenizer.json"],
    );
    assert.deepEqual(checkpoint.config, { model_type: "llama", time_step_limit: [0.5, Number.POSITIVE_INFINITY] });
  });

  test("includes no config when there is none", async () => {
    assert.equal((await open(SHARDED)).checkpoint.config, undefined);
  });

  test("is refused when config.json is not one JSON object", async () => {
    for (const config of ["", "{", "[]", "null", '{"a":1,"a":2}', "{}{}"]) {
      const { where } = await refused({ ...SHARDED, "config.json": config }, "CheckpointConfigInvalid");
      assert.equal(where.file, "config.json");
    }
  });
});

test("tensors are counted over all files", async () => {
  const folder = memoryFolder({ "a.safetensors": makeFile(["a", "b"]), "b.safetensors": makeFile(["c"]) });
  assert.equal((await readHeaders(folder, folder.files, 3)).length, 2);
  await assert.rejects(readHeaders(folder, folder.files, 2), { code: "CheckpointTooManyTensors" });
});

test("many shards are opened with one read each, large headers one after another", async () => {
  const files: Record<string, Uint8Array | string> = {};
  const weightMap: Record<string, string> = {};
  for (let shard = 1; shard <= 40; shard += 1) {
    const name = `model-${String(shard).padStart(5, "0")}-of-00040.safetensors`;
    const large = shard % 20 === 0;
    files[name] = makeFile([`t${shard}`], large ? { format: "pt", note: "x".repeat(2 ** 21) } : {});
    weightMap[`t${shard}`] = name;
  }
  const folder = memoryFolder({ ...files, [INDEX]: makeIndex(weightMap, { total_size: 160 }) });
  const { checkpoint, warnings } = await safetensors.open(folder);
  assert.deepEqual(
    checkpoint.tensors.map(({ name }) => name),
    Array.from({ length: 40 }, (_, index) => `t${index + 1}`),
  );
  assert.deepEqual(warnings, []);
  // The index, 40 first reads, and for each of the 2 large headers the guess again and the rest.
  assert.equal(folder.reads.length, 1 + 40 + 2 * 2);
});
