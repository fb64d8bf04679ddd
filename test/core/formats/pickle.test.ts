// The pickle machine: which opcodes mean what, and that everything else is refused before it costs anything.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { unpickle } from "../../../core/formats/pickle/pickle.ts";
import { asKind, fieldOf, type PickleValue } from "../../../core/formats/pickle/value.ts";
import { PICKLE_LIMITS } from "../../../core/limits.ts";
import { dict, int, type Op, ops, pickleOf, text, tuple } from "./torch-parts.ts";

const load = (...parts: readonly Op[]): PickleValue => unpickle(pickleOf(...parts), { file: "x" }).value;
const refuses = (code: string, ...parts: readonly Op[]) =>
  assert.throws(() => load(...parts), { code }, Buffer.from(ops(...parts)).toString("latin1"));
const bytesOf = (value: PickleValue) => Uint8Array.from(asKind(value, "bytes")?.bytes ?? []);
const list = (...items: PickleValue[]) => ({ kind: "list", items });

suite("the pickle machine", () => {
  test("reads numbers, texts and bytes of every width", () => {
    assert.equal(load("K\xff"), 255);
    assert.equal(load("M\xff\xff"), 65_535);
    assert.equal(load(int(-5)), -5);
    assert.equal(load("\x8a\x02\x00\xff"), -256);
    assert.equal(load("\x8a\x00"), 0);
    assert.equal(load("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"), 2n ** 64n);
    assert.equal(load("\x8b\x02\x00\x00\x00\x00\x01"), 256);
    assert.equal(load("G\x3f\xf8\x00\x00\x00\x00\x00\x00"), 1.5);
    assert.equal(load("N"), null);
    assert.equal(load("\x88"), true);
    assert.equal(load(text("é日")), "é日");
    assert.equal(load("\x8c\x02hi"), "hi");
    assert.equal(load("\x8d\x02\0\0\0\0\0\0\0hi"), "hi");
    assert.equal(load("U\x02hi"), "hi");
    assert.equal(load("T\x02\0\0\0hi"), "hi");
    assert.deepEqual(bytesOf(load("C\x02\x00\xff")), new Uint8Array([0, 255]));
    assert.deepEqual(bytesOf(load("B\x01\0\0\0\x07")), new Uint8Array([7]));
    assert.deepEqual(bytesOf(load("\x8e\x01\0\0\0\0\0\0\0\x07")), new Uint8Array([7]));
    assert.deepEqual(bytesOf(load("\x96\x01\0\0\0\0\0\0\0\x07")), new Uint8Array([7]));
  });

  test("builds containers, shared values and sets", () => {
    assert.deepEqual(load("]", "K\x01", "a"), list(1));
    assert.deepEqual(load("](K\x01K\x02e"), list(1, 2));
    assert.deepEqual(load("(K\x01K\x02K\x03K\x04t"), { kind: "tuple", items: [1, 2, 3, 4] });
    assert.deepEqual(load("K\x01K\x02\x86"), { kind: "tuple", items: [1, 2] });
    assert.deepEqual(load("\x8f(K\x01\x90"), { kind: "set", items: [1] });
    assert.deepEqual(load("(K\x01\x91"), { kind: "set", items: [1] });
    assert.equal(fieldOf(load(dict(["a", "K\x05"])), "a"), 5);
    assert.equal(fieldOf(load("}", text("a"), "K\x05s"), "a"), 5);
    assert.deepEqual(load("](", "K\x07q\x00", "h\x00e"), list(7, 7));
    assert.deepEqual(load("]", "\x94", "(K\x07\x94j\x01\0\0\0e"), list(7, 7));
    assert.equal(load("K\x01", "K\x02", "0"), 1);
    assert.equal(load("K\x01", "(0"), 1);
    const same = asKind(load("}(K\x01K\x0a\x88K\x0bG\x3f\xf0\0\0\0\0\0\0K\x0cu"), "dict");
    assert.deepEqual(
      [...(same?.entries.values() ?? [])].map(({ value }) => value),
      [12],
    );
  });

  test("keeps records of known classes as their fields and drops state that a dict carries", () => {
    const address = "cdeepspeed.utils.tensor_fragment\nfragment_address\n";
    const record = load(address, ")\x81", dict(["numel", "K\x03"], ["start", "K\x02"]), "b");
    assert.equal(asKind(record, "record")?.type, "deepspeed.utils.tensor_fragment fragment_address");
    assert.deepEqual([fieldOf(record, "numel"), fieldOf(record, "start")], [3, 2]);
    assert.equal(asKind(load("ccollections\nOrderedDict\n)R", dict(["x", "K\x01"]), "b"), "dict")?.entries.size, 0);
    refuses("PickleInvalid", address, ")\x81", "}K\x01K\x02sb");
  });

  test("takes a member of a listed enum by name or by value, and nothing else through getattr", () => {
    const stage = "cdeepspeed.runtime.zero.config\nZeroStageEnum\n";
    const expected = { kind: "enum", type: "deepspeed.runtime.zero.config ZeroStageEnum", member: "gradients" };
    assert.deepEqual(load("c__builtin__\ngetattr\n", stage, text("gradients"), "\x86R"), expected);
    assert.deepEqual(load(stage, "K\x02\x85R"), expected);
    refuses("PickleGlobalRefused", "c__builtin__\ngetattr\n", stage, text("__class__"), "\x86R");
    refuses("PickleGlobalRefused", "c__builtin__\ngetattr\n", "ccollections\nOrderedDict\n", text("x"), "\x86R");
    refuses("PickleGlobalRefused", stage, "K\x09\x85R");
  });

  test("reads bytes that protocol 2 wrote as text", () => {
    const value = load("c_codecs\nencode\n", text("\u00e9"), text("latin1"), "\x86R");
    assert.deepEqual(asKind(value, "bytes")?.bytes, new Uint8Array([0xe9]));
    refuses("PickleInvalid", "c_codecs\nencode\n", text("日"), text("latin1"), "\x86R");
    refuses("PickleInvalid", "c_codecs\nencode\n", text("x"), text("rot13"), "\x86R");
  });

  test("skips numpy values without reading them", () => {
    const scalar = load("cnumpy.core.multiarray\nscalar\n", "N", "C\x01a", "\x86R");
    assert.equal(asKind(scalar, "opaque")?.what, "numpy.core.multiarray.scalar");
  });

  test("keeps what trainers save beside the weights as placeholders, dicts and names", () => {
    // A config of OmegaConf holds itself as its items' parent.
    const config = load("comegaconf.dictconfig\nDictConfig\n)\x81q\x00", dict(["_parent", "h\x00"]), "b");
    assert.equal(asKind(config, "opaque")?.what, "omegaconf.dictconfig.DictConfig");
    const hparams = load("clightning.fabric.utilities.data\nAttributeDict\n)\x81", text("lr"), "K\x03s");
    assert.equal(fieldOf(hparams, "lr"), 3);
    const factory = load("ccollections\ndefaultdict\n", "c__builtin__\nlist\n", "\x85R", text("a"), "K\x01s");
    assert.equal(fieldOf(factory, "a"), 1);
    assert.deepEqual(load("ccollections\ndeque\n", "]K\x05\x86R(K\x01e"), list(1));
    assert.deepEqual(bytesOf(load("c__builtin__\nbytes\n)R")), new Uint8Array(0));
    const model = "cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n";
    assert.equal(asKind(load("}", model, "K\x01s"), "dict")?.entries.size, 1);
    for (const callable of [model, "c__builtin__\nlist\n", "ctyping\nAny\n"]) {
      refuses("PickleGlobalRefused", callable, ")R");
      refuses("PickleGlobalRefused", callable, ")\x81");
    }
  });

  test("refuses opcodes and globals that no checkpoint needs", () => {
    for (const opcode of [
      "ios\nsystem\n",
      "(o",
      "\x82\x01",
      "\x83\x01\0",
      "\x84\x01\0\0\0",
      "\x92",
      "Px\n",
      "I1\n",
      "2",
    ]) {
      refuses("PickleOpcodeRefused", opcode);
    }
    for (const name of ["os\nsystem", "builtins\neval", "torch\nload", "collections\n__class__", "__builtin__\nexec"]) {
      refuses("PickleGlobalRefused", `c${name}\n`);
      const [module = "", attribute = ""] = name.split("\n");
      refuses("PickleGlobalRefused", text(module), text(attribute), "\x93");
    }
    refuses("PickleGlobalRefused", "ctorch\nTensor\n", ")\x81");
    refuses("PickleGlobalRefused", "]", "}", "b");
    refuses("PickleTensorUnsupported", "ctorch._utils\n_rebuild_sparse_tensor\n");
    refuses("PickleTensorUnsupported", "ctorch.distributed._tensor\nDTensor\n");
    refuses("PickleTensorUnsupported", "ctorch.distributed._shard.sharded_tensor.api\nShardedTensor\n");
    refuses("PicklePersistentIdInvalid", text("x"), "Q");
  });

  test("refuses what is malformed", () => {
    for (const parts of ["R", "0", "t", "h\x05", "\x93", "e", "]K\x01s", "}(K\x01u", "}](K\x01es", "a", "b"]) {
      refuses("PickleInvalid", parts);
    }
    refuses("PickleInvalid", "}", "]", "K\x01s");
    refuses("PickleInvalid", "X\x01\0\0\0\xff");
    refuses("PickleInvalid", "ctorch._utils\n_rebuild_tensor_v2\n", "N\x85R");
    refuses("PickleInvalid", "ctorch.serialization\n_get_layout\n", text("torch.sparse_coo"), "\x85R");
  });

  test("believes no length beyond the bytes that are left", () => {
    for (const parts of [
      "X\xff\xff\xff\x7f",
      "\x8b\xff\xff\xff\x7f",
      "\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
      "C\x10",
      "ctorch",
    ]) {
      assert.throws(() => unpickle(ops(parts), { file: "x" }), { code: "PickleTruncated" }, parts);
    }
    assert.throws(() => unpickle(new Uint8Array(0), { file: "x" }), { code: "PickleTruncated" });
  });

  test("bounds depth, size through sharing, and integers", () => {
    const nest = (levels: number) => ops(...Array.from({ length: levels }, () => "]"), "a".repeat(levels - 1));
    assert.doesNotThrow(() => load(nest(PICKLE_LIMITS.depth)));
    refuses("PickleTooDeep", nest(PICKLE_LIMITS.depth + 1));
    const doublings = Array.from({ length: 40 }, (_, index) =>
      ops(
        `q${String.fromCharCode(index)}`,
        "](",
        `h${String.fromCharCode(index)}`,
        `h${String.fromCharCode(index)}`,
        "e",
      ),
    );
    refuses("PickleTooLarge", "]", ...doublings);
    refuses("PickleCyclic", "]q\x00h\x00a");
    const long = Buffer.alloc(4);
    long.writeUInt32LE(PICKLE_LIMITS.integerBytes + 1);
    refuses("PickleTooLarge", "\x8b", long, new Uint8Array(PICKLE_LIMITS.integerBytes + 1));
    assert.deepEqual(load("ctorch\nSize\n", tuple("K\x02", "K\x03"), "\x85R"), {
      kind: "tuple",
      items: [2, 3],
      isSize: true,
    });
  });
});
