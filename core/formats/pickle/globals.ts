// The fixed table of globals that a pickle may name, and what each means as data. A name is looked up here and nowhere
// else; nothing is imported, called or instantiated. What the table lacks is refused as soon as it is named.
// Source: reference checkpoint-formats.md section 2.2; trainer-globals.ts for what is kept as placeholders.
import { QUANTIZED_STORAGES, TORCH_DTYPES, TORCH_STORAGES } from "../torch/dtype.ts";
import { CLASSES, DICTS, PLACEHOLDERS } from "./trainer-globals.ts";
import {
  asKind,
  describeValue,
  fieldOf,
  isCount,
  isObject,
  itemsOf,
  type PickleDict,
  type PickleTuple,
  type PickleValue,
} from "./value.ts";

/** What the machine lends to a global that is called: making dicts, and refusing. */
export type PickleTools = {
  dictOf(pairs: readonly PickleValue[]): PickleDict;
  invalid(found: string, expected: string): Error;
  refused(found: string): Error;
  unsupported(found: string): Error;
};

type Call = (args: readonly PickleValue[], tools: PickleTools) => PickleValue;

/** `call`: REDUCE. `record`: NEWOBJ and BUILD. `enum`: REDUCE with a value, or getattr with a member's name. */
export type GlobalMeaning = {
  readonly value?: PickleValue;
  readonly call?: Call;
  readonly isRecord?: true;
  readonly members?: ReadonlyMap<string, number>;
};

const opaque =
  (what: string): Call =>
  () => ({ kind: "opaque", what });

/** `OrderedDict()`, or with a list of pairs; a defaultdict's factory is a class or None. */
const makeDict: Call = (args, tools) => {
  const [first, ...others] = args.filter((arg) => arg !== null && asKind(arg, "global") === undefined);
  if (first === undefined) return tools.dictOf([]);
  const pairs = itemsOf(first);
  if (pairs !== undefined && others.length === 0) return tools.dictOf(pairs);
  return asKind(first, "dict") ?? fail(tools, args, "no argument, or pairs");
};

function fail(tools: PickleTools, args: readonly PickleValue[], expected: string): never {
  throw tools.invalid(`(${args.slice(0, 8).map(describeValue).join(", ")})`, expected);
}

const makeSet: Call = (args, tools) => {
  const items = args.length === 0 ? [] : itemsOf(args[0]);
  return { kind: "set", items: [...(items ?? fail(tools, args, "a list"))] };
};

const makeBytes: Call = (args, tools) => {
  const [first, encoding] = args;
  if (first === undefined) return { kind: "bytes", bytes: new Uint8Array(0) };
  const bytes = asKind(first, "bytes");
  if (bytes !== undefined && args.length === 1) return bytes;
  if (typeof first === "string" && (encoding === "latin-1" || encoding === "latin1")) return encodeLatin1(first, tools);
  return fail(tools, args, "bytes, or text and latin1");
};

function encodeLatin1(text: string, tools: PickleTools): PickleValue {
  const bytes = Uint8Array.from(text, (character) => {
    const code = character.charCodeAt(0);
    if (code > 255 || character.length > 1) throw tools.invalid("a character above U+00FF", "latin1 text");
    return code;
  });
  return { kind: "bytes", bytes };
}

/** getattr(Enum class of the table, one of its members): how Python 3.11 pickles a member. Nothing else. */
const getAttribute: Call = (args, tools) => {
  const [owner, member] = args;
  const name = asKind(owner, "global")?.name ?? "";
  const members = GLOBALS.get(name)?.members;
  if (args.length === 2 && typeof member === "string" && members?.has(member) === true) {
    return { kind: "enum", type: name, member };
  }
  throw tools.refused(`getattr(${args.slice(0, 3).map(describeValue).join(", ")})`);
};

/** (storage, offset, size, stride, requires_grad, hooks[, metadata]); the oldest form ends with the stride. */
const rebuildTensor: Call = (args, tools) => {
  const storage = asKind(args[0], "storage");
  if (storage === undefined || args.length < 4 || args.length > 7) return fail(tools, args, "a storage and its view");
  checkResolved(args[6], tools);
  return tensorOf(args, { element: storage.element, dtypeName: storage.type, storage }, tools);
};

/** The same with a dtype behind the hooks: the storage is untyped. */
const rebuildTensor3: Call = (args, tools) => {
  const [storage, dtype] = [asKind(args[0], "storage"), asKind(args[6], "dtype")];
  if (storage === undefined || dtype === undefined) return fail(tools, args, "a storage, its view and a dtype");
  checkResolved(args[7], tools);
  return tensorOf(args, { element: dtype, dtypeName: dtype.name, storage }, tools);
};

/** A view may say that every element it shows is the conjugate or the negative of what is stored. */
function checkResolved(metadata: PickleValue | undefined, tools: PickleTools): void {
  const bit = ["conj", "neg"].find((name) => fieldOf(metadata, name) === true);
  if (bit !== undefined) throw tools.unsupported(`a view whose elements are stored without their ${bit} bit`);
}

type TensorBase = Pick<Extract<PickleValue, { kind: "tensor" }>, "element" | "dtypeName" | "storage">;

function tensorOf(args: readonly PickleValue[], base: TensorBase, tools: PickleTools): PickleValue {
  const [offset, size, stride] = [integerOf(args[1]), integersOf(args[2]), integersOf(args[3])];
  if (offset === undefined || size === undefined || stride === undefined) {
    return fail(tools, args, "integers for offset, size and stride");
  }
  const { dtype, bytes } = base.element;
  return { kind: "tensor", ...base, element: { dtype, bytes }, offset, size, stride };
}

function integersOf(value: PickleValue | undefined): readonly number[] | undefined {
  const numbers = itemsOf(value)?.map(integerOf);
  return numbers?.every((number) => number !== undefined) === true ? numbers : undefined;
}

/** Beyond 2^53 integers are rounded: far outside of every storage, they are refused there. */
function integerOf(value: PickleValue | undefined): number | undefined {
  if (typeof value === "bigint") return Number(value);
  return typeof value === "number" && Number.isInteger(value) ? value : undefined;
}

const rebuildParameter: Call = (args, tools) => asKind(args[0], "tensor") ?? fail(tools, args, "a tensor");

/** (rebuild function, class, arguments, attributes): a tensor that bears attributes of Python, which are dropped. */
const rebuildFromType: Call = (args, tools) => {
  const [rebuild, type, inner] = args;
  const [rebuildName = "", typeName = ""] = [rebuild, type].map((each) => asKind(each, "global")?.name);
  const items = itemsOf(inner);
  if (items === undefined || args.length !== 4) return fail(tools, args, "a function, a class, arguments and a state");
  if (TENSOR_CLASSES.has(typeName) && REBUILD_TENSOR.has(rebuildName)) {
    return GLOBALS.get(rebuildName)?.call?.(items, tools) ?? fail(tools, args, "a tensor");
  }
  throw tools.refused(`_rebuild_from_type_v2(${args.slice(0, 2).map(describeValue).join(", ")})`);
};

/** `deque()`, or an empty list and the longest it may get; its items are appended. */
const makeDeque: Call = (args, tools) => {
  const items = args.length === 0 ? [] : itemsOf(args[0]);
  return { kind: "list", items: [...(items ?? fail(tools, args, "a list"))] };
};

const makeSize: Call = (args, tools) => {
  const items = itemsOf(args[0]);
  if (items === undefined || args.length !== 1) return fail(tools, args, "one tuple");
  const size: PickleTuple = { kind: "tuple", items, isSize: true };
  return size;
};

const getLayout: Call = (args, tools) => {
  if (args.length === 1 && args[0] === "torch.strided") return { kind: "opaque", what: "torch.strided" };
  throw tools.invalid(args.map(describeValue).join(", "), "the layout torch.strided");
};

const makeComplex: Call = (args, tools) =>
  args.every((arg) => typeof arg === "number") ? { kind: "tuple", items: args } : fail(tools, args, "two numbers");

/** A member of an enum by its value: how other versions of Python pickle it. */
export function memberOf(name: string, members: ReadonlyMap<string, number>, args: readonly PickleValue[]) {
  const [value] = args;
  const found = isCount(value) ? [...members].find(([, number]) => number === value) : undefined;
  return found === undefined || args.length !== 1
    ? undefined
    : ({ kind: "enum", type: name, member: found[0] } as const);
}

const RECORD: GlobalMeaning = { isRecord: true };
const SKIPPED = (what: string): GlobalMeaning => ({ call: opaque(what) });
const enumOf = (names: readonly string[]): GlobalMeaning => ({
  members: new Map(names.map((name, value) => [name, value])),
});
const both = (name: string, meaning: GlobalMeaning): [string, GlobalMeaning][] => [
  [`__builtin__ ${name}`, meaning],
  [`builtins ${name}`, meaning],
];

const DCP_METADATA = "torch.distributed.checkpoint.metadata";
/** Where torch 1.13 had them. */
const FIRST_DCP = "torch.distributed._shard.checkpoint";
const OLD_DCP_METADATA = "torch.distributed._shard.sharded_tensor.metadata";
const TENSOR_CLASSES: ReadonlySet<string> = new Set(["torch Tensor", "torch.nn.parameter Parameter"]);
const REBUILD_TENSOR: ReadonlySet<string> = new Set([
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_tensor_v3",
  "torch._utils _rebuild_parameter",
]);
const MEMORY_FORMATS = enumOf(["TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT"]);

/** By `module name`, as it stands in the pickle. */
export const GLOBALS: ReadonlyMap<string, GlobalMeaning> = new Map<string, GlobalMeaning>([
  ["collections OrderedDict", { call: makeDict }],
  ["collections Counter", { call: makeDict }],
  ["collections defaultdict", { call: makeDict }],
  ["collections deque", { call: makeDeque }],
  ["torch._utils _rebuild_tensor", { call: rebuildTensor }],
  ["torch._utils _rebuild_tensor_v2", { call: rebuildTensor }],
  ["torch._utils _rebuild_tensor_v3", { call: rebuildTensor3 }],
  ["torch._utils _rebuild_parameter", { call: rebuildParameter }],
  ["torch._utils _rebuild_parameter_with_state", { call: rebuildParameter }],
  ["torch._tensor _rebuild_from_type_v2", { call: rebuildFromType }],
  ["torch.nn.parameter Parameter", {}],
  ["torch Tensor", {}],
  ["torch Size", { call: makeSize }],
  ["torch device", SKIPPED("torch.device")],
  ["torch.serialization _get_layout", { call: getLayout }],
  ...both("set", { call: makeSet }),
  ...both("frozenset", { call: makeSet }),
  ...both("bytes", { call: makeBytes }),
  ...both("bytearray", { call: makeBytes }),
  ...both("complex", { call: makeComplex }),
  ...both("getattr", { call: getAttribute }),
  ["_codecs encode", { call: makeBytes }],
  ...[...PLACEHOLDERS].flatMap(([module, names]) =>
    names.map((name): [string, GlobalMeaning] => [`${module} ${name}`, SKIPPED(`${module}.${name}`)]),
  ),
  ...DICTS.map((name): [string, GlobalMeaning] => [name, { call: makeDict }]),
  ...CLASSES.map((name): [string, GlobalMeaning] => [name, {}]),
  ...[...TORCH_STORAGES.keys()].map((name): [string, GlobalMeaning] => [`torch ${name}`, {}]),
  ["torch.storage UntypedStorage", {}],
  ["torch.storage TypedStorage", {}],
  ...[...TORCH_DTYPES].map(([name, dtype]): [string, GlobalMeaning] => [
    `torch ${name}`,
    { value: { kind: "dtype", name: `torch.${name}`, ...dtype } },
  ]),
  ["deepspeed.runtime.zero.config ZeroStageEnum", enumOf(["disabled", "optimizer_states", "gradients", "weights"])],
  ["argparse Namespace", RECORD],
  ["deepspeed.runtime.fp16.loss_scaler LossScaler", RECORD],
  ["deepspeed.runtime.fp16.loss_scaler DynamicLossScaler", RECORD],
  ["deepspeed.utils.tensor_fragment fragment_address", RECORD],
  ["deepspeed.checkpoint.universal_checkpoint SubparamShape", RECORD],
  ...[
    "Metadata",
    "BytesStorageMetadata",
    "TensorStorageMetadata",
    "TensorProperties",
    "ChunkStorageMetadata",
    "MetadataIndex",
    "StorageMeta",
  ].flatMap((name): [string, GlobalMeaning][] => [
    [`${DCP_METADATA} ${name}`, RECORD],
    [`${FIRST_DCP}.metadata ${name}`, RECORD],
  ]),
  [`${DCP_METADATA} _MEM_FORMAT_ENCODING`, MEMORY_FORMATS],
  [`${OLD_DCP_METADATA} TensorProperties`, RECORD],
  [`${OLD_DCP_METADATA} MEM_FORMAT_ENCODING`, MEMORY_FORMATS],
  ["torch.distributed.checkpoint.filesystem _StorageInfo", RECORD],
  [`${FIRST_DCP}.filesystem _StorageInfo`, RECORD],
  ["megatron.core.dist_checkpointing.strategies.torch MCoreMetadata", RECORD],
]);

/** Tensors that are no plain array of numbers: refused by what they are, not as an unknown name. */
const UNSUPPORTED: readonly (readonly [RegExp, string])[] = Object.freeze([
  [/ _rebuild_sparse/, "a sparse tensor"],
  [/ _rebuild_qtensor$/, "a quantized tensor"],
  [/ _rebuild_(nested_tensor|njt)$/, "a nested tensor"],
  [/ _rebuild_(wrapper_subclass|meta_tensor|device_tensor)/, "a tensor subclass"],
  [/^torch\.distributed(\._tensor|\.tensor)\S* /, "a distributed tensor (DTensor)"],
  [/^torch\.distributed\._shard\.sharded_tensor\.api ShardedTensor$/, "a part of a distributed tensor (ShardedTensor)"],
  [/^torch\.nn\.parameter Uninitialized/, "a tensor of no shape yet"],
  [new RegExp(`^torch (${QUANTIZED_STORAGES.join("|")})$`), "a quantized tensor"],
]);

/** The kind of tensor that a global stands for and that cannot be read; undefined for every other name. */
export function unsupportedTensor(name: string): string | undefined {
  return UNSUPPORTED.find(([pattern]) => pattern.test(name))?.[1];
}

/** True when REDUCE or BUILD may follow. */
export function isSkipped(value: PickleValue): boolean {
  return isObject(value) && value.kind === "opaque";
}
