// Files of torch.save as checkpoints: the golden set of an independent writer, a code for every hostile file, and
// folders of them.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { recogniseFormat } from "../../../core/formats/registry.ts";
import { encodeSafetensorsHeader } from "../../../core/formats/safetensors/safetensors.ts";
import { readTorchFile } from "../../../core/formats/torch/file.ts";
import { torch } from "../../../core/formats/torch/torch.ts";
import { listTensors, placeTensors } from "../../../core/formats/torch/tree.ts";
import { TORCH_LIMITS } from "../../../core/limits.ts";
import { runGolden } from "../../../tools/golden.ts";
import { memoryFolder } from "./folder.ts";
import {
  dict,
  fileOf,
  int,
  type Op,
  ops,
  pickleOf,
  readerOf,
  tensor,
  text,
  torchOf,
  tuple,
  zipOf,
} from "./torch-parts.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/torch");

/** What every hostile file of the golden set is refused with; undefined: it loads. */
const HOSTILE: ReadonlyMap<string, string | undefined> = new Map([
  ["_control_ok.pt", undefined],
  ["billion_laughs.pt", "PickleTooLarge"],
  ["build_setstate.pt", "PickleGlobalRefused"],
  ["builtins_eval.pt", "PickleGlobalRefused"],
  ["central_directory_lie.pt", "ZipInvalid"],
  ["compressed.pt", "ZipEntryCompressed"],
  ["cuda_only_ok.pt", undefined],
  ["deep_recursion.pt", "PickleTooDeep"],
  ["duplicate_record.pt", "ZipEntryRepeated"],
  ["empty_file.pt", "TorchNotRecognised"],
  ["expand_bomb.pt", "TorchTensorTooLarge"],
  ["ext_registry.pt", "PickleOpcodeRefused"],
  ["getattr_gadget.pt", "PickleGlobalRefused"],
  ["global_unused.pt", "PickleGlobalRefused"],
  ["html_page.bin", "TorchForeignContent"],
  ["inst_opcode.pt", "PickleOpcodeRefused"],
  ["legacy_hostile_body.pt", "PickleGlobalRefused"],
  ["legacy_os_system.pt", "TorchForeignContent"],
  ["legacy_truncated.pt", "TorchStorageTruncated"],
  ["lfs_pointer.bin", "TorchForeignContent"],
  ["long4_lie.pt", "PickleTruncated"],
  ["mark_missing.pt", "PickleInvalid"],
  ["memo_huge_index.pt", undefined],
  ["memo_missing.pt", "PickleInvalid"],
  ["newobj.pt", "PickleGlobalRefused"],
  ["no_pickle.pt", "TorchRecordMissing"],
  ["no_stop.pt", "PickleTruncated"],
  ["obj_opcode.pt", "PickleGlobalRefused"],
  ["offset_negative.pt", "TorchTensorOutOfBounds"],
  ["offset_past_end.pt", "TorchTensorOutOfBounds"],
  ["operator_attrgetter.pt", "PickleGlobalRefused"],
  ["os_system.pt", "PickleGlobalRefused"],
  ["os_system_alias.pt", "PickleGlobalRefused"],
  ["persid_ascii.pt", "PickleOpcodeRefused"],
  ["persid_not_tuple.pt", "PicklePersistentIdInvalid"],
  ["persid_wrong_tag.pt", "PicklePersistentIdInvalid"],
  ["quantized.pt", "PickleTensorUnsupported"],
  ["runpy.pt", "PickleGlobalRefused"],
  ["self_reference.pt", "PickleCyclic"],
  ["size_negative.pt", "TorchShapeInvalid"],
  ["size_stride_rank.pt", "TorchShapeInvalid"],
  ["sparse.pt", "PickleTensorUnsupported"],
  ["stack_global.pt", "PickleGlobalRefused"],
  ["stack_underflow.pt", "PickleInvalid"],
  ["storage_class_unknown.pt", "PickleGlobalRefused"],
  ["storage_key_traversal.pt", "TorchRecordMissing"],
  ["storage_missing.pt", "TorchRecordMissing"],
  ["storage_numel_huge.pt", "TorchStorageSizeMismatch"],
  ["storage_numel_negative.pt", "TorchStorageSizeMismatch"],
  ["storage_short.pt", "TorchStorageSizeMismatch"],
  ["storage_two_types.pt", "TorchStorageTypeConflict"],
  ["stride_negative.pt", "TorchTensorOutOfBounds"],
  ["stride_past_end.pt", "TorchTensorOutOfBounds"],
  ["string_length_lie.pt", "PickleTruncated"],
  ["subprocess_popen.pt", "PickleGlobalRefused"],
  ["torch_load_gadget.pt", "PickleGlobalRefused"],
  ["torchscript.pt", "TorchScriptUnsupported"],
  ["trailing_pickle.pt", "PickleTrailing"],
  ["truncated_3_bytes.pt", "TorchNotRecognised"],
  ["truncated_half.pt", "ZipEndMissing"],
  ["truncated_tail.pt", "ZipEndMissing"],
  ["two_roots.pt", "TorchRootAmbiguous"],
  ["unhashable_key.pt", "PickleInvalid"],
  ["zip_bomb.pt", "ZipEntryCompressed"],
]);

const floats = (count: number) => new Uint8Array(4 * count);
const matrix = { count: 6, size: [2, 3], stride: [3, 1] };
const open = (bytes: Uint8Array) => torch.file.open(memoryFolder({ [fileOf(bytes).name]: bytes }));
const one = (value: Uint8Array, storage = floats(6)) => torchOf(dict(["w", value]), { 0: storage });

suite("files of torch.save", () => {
  test("load as the golden set says, and are refused for its reasons", async () => {
    const report = await runGolden(GOLDEN);
    assert.deepEqual(report, { passed: 77, failed: [], skipped: [] });
  });

  test("may bear attributes of Python, which are dropped, on tensors of torch's own classes alone", async () => {
    const from = "ctorch._tensor\n_rebuild_from_type_v2\n";
    const rebuild = "ctorch._utils\n_rebuild_tensor_v2\n";
    const plain = tensor(matrix);
    const view = plain.subarray(rebuild.length, plain.length - 1);
    const state = dict(["ds_id", text("2_3")]);
    const bearing = (...parts: readonly Op[]) => one(ops(from, tuple(...parts), "R"));
    for (const type of ["ctorch\nTensor\n", "ctorch.nn.parameter\nParameter\n"]) {
      const { checkpoint } = await open(bearing(rebuild, type, view, state));
      assert.deepEqual(
        checkpoint.tensors.map(({ name, dtype, shape }) => [name, dtype, shape]),
        [["w", "F32", [2, 3]]],
      );
    }
    const refuses = (code: string, ...parts: readonly Op[]) => assert.rejects(open(bearing(...parts)), { code });
    await refuses("PickleGlobalRefused", rebuild, "ccollections\nOrderedDict\n", view, state);
    await refuses("PickleGlobalRefused", "ctorch\nSize\n", "ctorch\nTensor\n", view, state);
    await refuses("PickleGlobalRefused", from, "ctorch\nTensor\n", view, state);
    await refuses("PickleInvalid", rebuild, "ctorch\nTensor\n", view);
    await refuses("PickleInvalid", rebuild, "ctorch\nTensor\n", tuple(int(1)), state);
  });

  test("are refused with the code of what is wrong, for every hostile file", async () => {
    const folder = join(GOLDEN, "hostile");
    assert.deepEqual([...HOSTILE.keys()].sort(), readdirSync(folder).sort());
    for (const [name, code] of HOSTILE) {
      const bytes = readFileSync(join(folder, name));
      const load = async () => {
        const file = fileOf(bytes, name);
        const opened = await readTorchFile(readerOf(bytes), file);
        return placeTensors(opened, listTensors(opened.value), file);
      };
      if (code === undefined) await assert.doesNotReject(load, name);
      else await assert.rejects(load, { code }, name);
    }
  });

  test("give a tensor as one range when it lies in one piece, and as its rows when it does not", async () => {
    const whole = await open(one(tensor(matrix)));
    assert.deepEqual(
      whole.checkpoint.tensors.map(({ name, shape, ranges }) => [name, shape, ranges.length]),
      [["w", [2, 3], 1]],
    );
    const columns = await open(one(tensor({ count: 6, size: [2, 2], stride: [3, 1], offset: 1 })));
    const base = whole.checkpoint.tensors[0]?.ranges[0]?.offset ?? 0;
    assert.deepEqual(columns.checkpoint.tensors[0]?.ranges, [
      { file: "file.pt", offset: base + 4, bytes: 8 },
      { file: "file.pt", offset: base + 16, bytes: 8 },
    ]);
  });

  test("are refused when a view needs more runs than the limit", async () => {
    const side = Math.ceil(Math.sqrt(TORCH_LIMITS.runs)) + 1;
    const transposed = tensor({ count: side * side, size: [side, side], stride: [1, side] });
    await assert.rejects(open(one(transposed, floats(side * side))), { code: "TorchTensorScattered" });
  });

  test("are refused for a dtype that safetensors lacks, and for names that it cannot hold", async () => {
    const complex = tensor({ storage: "ComplexDoubleStorage", count: 1, size: [1], stride: [1] });
    await assert.rejects(open(one(complex, new Uint8Array(16))), { code: "TorchDtypeUnsupported" });
    const named = (...names: string[]) =>
      torchOf(dict(...names.map((name) => [name, tensor(matrix)] as const)), { 0: floats(6) });
    await assert.rejects(open(named("a\nb")), { code: "TorchNameInvalid" });
    await assert.rejects(open(named("__metadata__")), { code: "TorchNameInvalid" });
    const integerKey = ops("}(", "K\x07", tensor(matrix), "X\x01\0\0\x007", tensor(matrix), "u");
    await assert.rejects(open(torchOf(integerKey, { 0: floats(6) })), { code: "TorchNameRepeated" });
    await assert.rejects(open(torchOf(dict(["a", "K\x01"]))), { code: "TorchNoTensors" });
  });

  test("are refused where a view shows the conjugate or the negative of what is stored", async () => {
    const view = (...bits: readonly (readonly [string, Op])[]) => tensor({ ...matrix, metadata: dict(...bits) });
    for (const bit of ["conj", "neg"]) {
      await assert.rejects(open(one(view([bit, "\x88"]))), { code: "PickleTensorUnsupported" });
    }
    await assert.doesNotReject(open(one(view(["conj", "\x89"], ["other", "K\x01"]))));
    const storage = tuple(text("storage"), "ctorch.storage\nUntypedStorage\n", text("0"), text("cpu"), int(24));
    const untyped = ops(
      "ctorch._utils\n_rebuild_tensor_v3\n(",
      ops(storage, "Q", int(0), tuple(int(6)), tuple(int(1)), "\x89N", "ctorch\nfloat32\n"),
      dict(["neg", "\x88"]),
      "tR",
    );
    await assert.rejects(open(one(untyped)), { code: "PickleTensorUnsupported" });
  });

  test("have the legacy form in any protocol", async () => {
    const legacy = readFileSync(join(GOLDEN, "valid/dtypes_legacy.pt"));
    const of = (protocol: number, frame: Op) => ops("\x80", protocol, frame, legacy.subarray(2));
    const expected = (await open(legacy)).checkpoint.tensors.map(({ name }) => name);
    assert.ok(expected.length > 5);
    for (const bytes of [of(3, ""), of(4, "\x95\x0d\0\0\0\0\0\0\0")]) {
      const names = (await open(bytes)).checkpoint.tensors.map(({ name }) => name);
      assert.deepEqual(names, expected);
    }
    await assert.rejects(open(of(3, "\x95")), { code: "TorchForeignContent" });
  });

  test("are named when they are safetensors by another name", async () => {
    const { header } = encodeSafetensorsHeader([{ name: "w", dtype: "F32", shape: [0] }], new Map());
    await assert.rejects(open(header), { code: "TorchForeignContent", found: "a safetensors file" });
  });

  test("are refused with big-endian storages, in either form", async () => {
    const big = zipOf([
      { name: "archive/data.pkl", data: pickleOf(dict()) },
      { name: "archive/byteorder", data: Buffer.from("big") },
    ]);
    await assert.rejects(open(big), { code: "TorchByteOrderUnsupported" });
    const legacy = Buffer.concat([
      readFileSync(join(GOLDEN, "valid/dtypes_legacy.pt")).subarray(0, 15),
      pickleOf("M\xe9\x03"),
      pickleOf(dict(["little_endian", "\x89"])),
    ]);
    await assert.rejects(open(legacy), { code: "TorchByteOrderUnsupported" });
  });

  test("take the model out of the one wrapper that holds it, and say what they leave out", async () => {
    const inner = dict(["w", tensor(matrix)]);
    const wrapped = torchOf(
      dict(["state_dict", inner], ["optimizer", dict(["m", tensor(matrix)])], ["epoch", "K\x03"]),
      {
        0: floats(6),
      },
    );
    const opened = await open(wrapped);
    assert.deepEqual(
      opened.checkpoint.tensors.map(({ name }) => name),
      ["w"],
    );
    assert.deepEqual(
      opened.warnings.map(({ code, found }) => [code, found]),
      [["TensorsIgnored", "1 tensors"]],
    );
    const two = await open(torchOf(dict(["model", inner], ["ema", inner]), { 0: floats(6) }));
    assert.deepEqual(
      two.checkpoint.tensors.map(({ name }) => name),
      ["w"],
    );
    const unknown = await open(torchOf(dict(["x", inner], ["y", inner]), { 0: floats(6) }));
    assert.deepEqual(
      unknown.checkpoint.tensors.map(({ name }) => name),
      ["x/w", "y/w"],
    );
  });
});

suite("folders of torch files", () => {
  const file = one(tensor(matrix));
  const index = (map: Record<string, string>) => Buffer.from(JSON.stringify({ metadata: {}, weight_map: map }));

  test("open pytorch_model.bin beside a trainer's leftovers, and shards by their index", async () => {
    const single = memoryFolder({
      "pytorch_model.bin": file,
      "training_args.bin": Buffer.from("x"),
      "config.json": Buffer.from("{}"),
    });
    assert.equal(recogniseFormat(single.files).id, "torch");
    const opened = await torch.open(single);
    assert.deepEqual(
      opened.checkpoint.tensorFiles.map(({ name }) => name),
      ["pytorch_model.bin"],
    );
    assert.deepEqual(opened.checkpoint.config, {});
    const second = torchOf(dict(["v", tensor(matrix)]), { 0: floats(6) });
    const shards = {
      "pytorch_model-00001-of-00002.bin": file,
      "pytorch_model-00002-of-00002.bin": second,
      "pytorch_model.bin.index.json": index({
        w: "pytorch_model-00001-of-00002.bin",
        v: "pytorch_model-00002-of-00002.bin",
      }),
    };
    assert.deepEqual(
      (await torch.open(memoryFolder(shards))).checkpoint.tensors.map(({ name }) => name),
      ["w", "v"],
    );
  });

  test("are refused when files are missing, left over or not clearly the model", async () => {
    const refuses = (code: string, files: Record<string, Uint8Array>) =>
      assert.rejects(torch.open(memoryFolder(files)), { code });
    const shard = "pytorch_model-00001-of-00002.bin";
    await refuses("CheckpointIndexMissing", { [shard]: file });
    await refuses("CheckpointShardMissing", { "pytorch_model.bin.index.json": index({ w: shard }) });
    await refuses("CheckpointShardUnexpected", {
      [shard]: file,
      "pytorch_model-00002-of-00002.bin": file,
      "pytorch_model.bin.index.json": index({ w: shard }),
    });
    await refuses("CheckpointAmbiguous", { "a.pt": file, "b.pt": file });
    await refuses("CheckpointAmbiguous", {
      "pytorch_model.bin": file,
      "pytorch_model.bin.index.json": index({ w: shard }),
    });
    await refuses("CheckpointTensorNotIndexed", {
      [shard]: torchOf(dict(["w", tensor(matrix)], ["x", tuple()], ["v", tensor(matrix)]), { 0: floats(6) }),
      "pytorch_model.bin.index.json": index({ w: shard }),
    });
  });
});
