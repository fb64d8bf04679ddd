// Writes pickles of protocol 2 from a fixed set of globals: what torch.save, DeepSpeed and distributed checkpoints put
// into their files. Nothing is memoised, so the bytes follow from the value alone. Called by the writers of torch files
// and of distributed checkpoints.
// Source: reference checkpoint-formats.md section 2.4; Python's pickletools.
import { MergeyardError } from "../../error.ts";
import { type Dtype, elementCount, type Shape, tensorBytes } from "../../tensor.ts";
import { TORCH_DTYPES, TORCH_STORAGES } from "../torch/dtype.ts";

/** A tensor of a pickle: contiguous, alone in its storage. */
export type StoredTensor = { readonly dtype: Dtype; readonly shape: Shape };

export type PyDict<T> = {
  readonly kind: "dict";
  readonly entries: readonly (readonly [Picklable<T>, Picklable<T>])[];
  readonly isOrdered: boolean;
};
export type PyCall<T> = {
  readonly kind: "call";
  readonly name: WrittenGlobal;
  readonly args: readonly Picklable<T>[];
};
/** An instance whose state is set by BUILD. */
export type PyInstance<T> = { readonly kind: "record"; readonly name: WrittenGlobal; readonly state: Picklable<T> };
/** A value of Python. Whole numbers are ints; `float` makes a float of one. `T` is what stands for a tensor. */
export type Picklable<T = never> =
  | null
  | boolean
  | number
  | string
  | PyDict<T>
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "list"; readonly items: readonly Picklable<T>[] }
  | { readonly kind: "tuple"; readonly items: readonly Picklable<T>[] }
  /** `module name`, as the table of globals spells it. */
  | { readonly kind: "global"; readonly name: WrittenGlobal }
  | PyCall<T>
  | PyInstance<T>
  | { readonly kind: "tensor"; readonly tensor: T };

/** Every class and function that a written pickle may name, beside torch's dtypes and storages. */
export type WrittenGlobal =
  | "collections OrderedDict"
  | "torch Size"
  | "torch.serialization _get_layout"
  | "deepspeed.runtime.zero.config ZeroStageEnum"
  | "deepspeed.runtime.fp16.loss_scaler LossScaler"
  | "deepspeed.runtime.fp16.loss_scaler DynamicLossScaler"
  | "deepspeed.utils.tensor_fragment fragment_address"
  | "deepspeed.checkpoint.universal_checkpoint SubparamShape"
  | `torch.distributed.checkpoint.metadata ${DcpClass}`
  | "torch.distributed.checkpoint.filesystem _StorageInfo"
  | `torch._utils ${"_rebuild_tensor_v2" | "_rebuild_tensor_v3"}`
  | "torch.storage UntypedStorage"
  | `torch ${string}`;
type DcpClass =
  | "Metadata"
  | "BytesStorageMetadata"
  | "TensorStorageMetadata"
  | "TensorProperties"
  | "ChunkStorageMetadata"
  | "MetadataIndex"
  | "_MEM_FORMAT_ENCODING";

export const pyList = <T = never>(items: readonly Picklable<T>[]): Picklable<T> => ({ kind: "list", items });
export const pyTuple = <T = never>(items: readonly Picklable<T>[]): Picklable<T> => ({ kind: "tuple", items });
export const pySize = (shape: Shape): Picklable => ({ kind: "call", name: "torch Size", args: [pyTuple(shape)] });

/** A dict in this order; `OrderedDict` where torch's own files have one. */
export function pyDict<T = never>(
  entries: Iterable<readonly [Picklable<T>, Picklable<T>]>,
  { isOrdered = false }: { readonly isOrdered?: boolean } = {},
): PyDict<T> {
  return { kind: "dict", entries: [...entries], isOrdered };
}

/** A record whose state is a dict of fields. */
export function pyRecord<T = never>(name: WrittenGlobal, fields: Readonly<Record<string, Picklable<T>>>): Picklable<T> {
  return { kind: "record", name, state: pyDict(Object.entries(fields)) };
}

/** `torch.float64` of F64. Throws TorchDtypeUnsupported. */
export function torchDtype(dtype: Dtype): Picklable {
  const [name] = [...TORCH_DTYPES].find(([, known]) => known.dtype === dtype) ?? [];
  if (name !== undefined) return { kind: "global", name: `torch ${name}` };
  throw new MergeyardError("TorchDtypeUnsupported", { found: dtype, expected: "a dtype of torch" });
}

const OP = {
  PROTO: 0x80,
  STOP: 0x2e,
  NONE: 0x4e,
  TRUE: 0x88,
  FALSE: 0x89,
  INT1: 0x4b,
  INT2: 0x4d,
  INT4: 0x4a,
  LONG1: 0x8a,
  FLOAT: 0x47,
  UNICODE: 0x58,
  EMPTY_DICT: 0x7d,
  EMPTY_LIST: 0x5d,
  EMPTY_TUPLE: 0x29,
  MARK: 0x28,
  TUPLE: 0x74,
  APPENDS: 0x65,
  SETITEMS: 0x75,
  GLOBAL: 0x63,
  REDUCE: 0x52,
  NEWOBJ: 0x81,
  BUILD: 0x62,
  PERSID: 0x51,
  PUT1: 0x71,
  PUT4: 0x72,
  GET1: 0x68,
  GET4: 0x6a,
} as const;

/** Storage of a tensor: equal keys are one storage. */
export type StorageKeys<T> = (tensor: T) => string;

/** The pickle's bytes. Throws TorchDtypeUnsupported for a tensor of a dtype that torch lacks. */
export function encodePickle<T extends StoredTensor>(
  value: Picklable<T>,
  keyOf: StorageKeys<T>,
): Uint8Array<ArrayBuffer> {
  const writer = new PickleWriter(keyOf);
  writer.byte(OP.PROTO, 2);
  writer.value(value);
  writer.byte(OP.STOP);
  return writer.bytes();
}

/** Opcodes that make tuples of 0 to 3 items. */
const OPS_BY_ARITY = [OP.EMPTY_TUPLE, 0x85, 0x86, 0x87];

const TEXT = new TextEncoder();

class PickleWriter<T extends StoredTensor> {
  readonly #keyOf: StorageKeys<T>;
  /** Places in the memo: a text or global that comes again is named by its place. */
  readonly #texts = new Map<string, number>();
  readonly #globals = new Map<string, number>();
  #buffer = new Uint8Array(1024);
  #length = 0;

  constructor(keyOf: StorageKeys<T>) {
    this.#keyOf = keyOf;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    return this.#buffer.slice(0, this.#length);
  }

  byte(...bytes: readonly number[]): void {
    this.#reserve(bytes.length);
    for (const byte of bytes) this.#buffer[this.#length++] = byte;
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  u32(value: number): void {
    this.byte(value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24);
  }

  /** UTF-8; returns how many bytes it is. */
  utf8(text: string): number {
    this.#reserve(3 * text.length);
    const { written } = TEXT.encodeInto(text, this.#buffer.subarray(this.#length));
    this.#length += written;
    return written;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = new Uint8Array(2 * (this.#length + bytes));
    larger.set(this.#buffer);
    this.#buffer = larger;
  }

  value(value: Picklable<T>): void {
    if (value === null) this.byte(OP.NONE);
    else if (typeof value === "boolean") this.byte(value ? OP.TRUE : OP.FALSE);
    else if (typeof value === "number") this.number(value);
    else if (typeof value === "string") this.text(value);
    else this.object(value);
  }

  number(value: number): void {
    if (!Number.isSafeInteger(value)) this.float(value);
    else if (value >= 0 && value < 0x100) this.byte(OP.INT1, value);
    else if (value >= 0 && value < 0x1_0000) this.byte(OP.INT2, value & 0xff, value >> 8);
    else if (value >= -(2 ** 31) && value < 2 ** 31) {
      this.byte(OP.INT4);
      this.u32(value);
    } else {
      this.byte(OP.LONG1, 8);
      this.raw(new Uint8Array(BigInt64Array.of(BigInt(value)).buffer));
    }
  }

  /** Big-endian, unlike everything else. */
  float(value: number): void {
    this.byte(OP.FLOAT);
    this.raw(new Uint8Array(Float64Array.of(value).buffer).reverse());
  }

  text(text: string): void {
    if (this.recall(this.#texts, text)) return;
    this.byte(OP.UNICODE);
    const start = this.#length;
    this.u32(0);
    const bytes = this.utf8(text);
    new DataView(this.#buffer.buffer).setUint32(start, bytes, true);
    this.keep(this.#texts, text);
  }

  /** Writes the place of what was kept under `key`, if it was. */
  recall(kept: ReadonlyMap<string, number>, key: string): boolean {
    const index = kept.get(key);
    if (index !== undefined) this.memo(OP.GET1, OP.GET4, index);
    return index !== undefined;
  }

  keep(kept: Map<string, number>, key: string): void {
    const index = this.#texts.size + this.#globals.size;
    this.memo(OP.PUT1, OP.PUT4, index);
    kept.set(key, index);
  }

  memo(short: number, long: number, index: number): void {
    if (index < 0x100) this.byte(short, index);
    else {
      this.byte(long);
      this.u32(index);
    }
  }

  object(value: Exclude<Picklable<T>, null | boolean | number | string>): void {
    if (value.kind === "float") this.float(value.value);
    else if (value.kind === "list") this.list(value.items);
    else if (value.kind === "tuple") this.tuple(value.items);
    else if (value.kind === "dict") this.dict(value);
    else if (value.kind === "global") this.global(value.name);
    else if (value.kind === "call") this.call(value);
    else if (value.kind === "record") this.record(value);
    else this.tensor(value.tensor);
  }

  list(items: readonly Picklable<T>[]): void {
    this.byte(OP.EMPTY_LIST);
    this.marked(items, OP.APPENDS);
  }

  call({ name, args }: PyCall<T>): void {
    this.global(name);
    this.tuple(args);
    this.byte(OP.REDUCE);
  }

  record({ name, state }: PyInstance<T>): void {
    this.global(name);
    this.byte(OP.EMPTY_TUPLE, OP.NEWOBJ);
    this.value(state);
    this.byte(OP.BUILD);
  }

  marked(items: readonly Picklable<T>[], end: number): void {
    if (items.length === 0) return;
    this.byte(OP.MARK);
    for (const item of items) this.value(item);
    this.byte(end);
  }

  tuple(items: readonly Picklable<T>[]): void {
    const short = OPS_BY_ARITY[items.length];
    if (short === undefined) this.byte(OP.MARK);
    for (const item of items) this.value(item);
    this.byte(short ?? OP.TUPLE);
  }

  dict({ entries, isOrdered }: PyDict<T>): void {
    if (isOrdered) {
      this.global("collections OrderedDict");
      this.byte(OP.EMPTY_TUPLE, OP.REDUCE);
    } else this.byte(OP.EMPTY_DICT);
    this.marked(entries.flat(), OP.SETITEMS);
  }

  global(name: WrittenGlobal): void {
    if (this.recall(this.#globals, name)) return;
    this.byte(OP.GLOBAL);
    this.utf8(`${name.replace(" ", "\n")}\n`);
    this.keep(this.#globals, name);
  }

  /** Typed storages hold a dtype each; the dtypes that have none lie in an untyped one, counted in bytes. */
  tensor(tensor: T): void {
    const { dtype, shape } = tensor;
    const storage = STORAGE_OF.get(dtype);
    this.global(storage === undefined ? "torch._utils _rebuild_tensor_v3" : "torch._utils _rebuild_tensor_v2");
    this.byte(OP.MARK, OP.MARK);
    this.text("storage");
    this.global(storage === undefined ? "torch.storage UntypedStorage" : `torch ${storage}`);
    this.text(this.#keyOf(tensor));
    this.text("cpu");
    this.number(storage === undefined ? tensorBytes(dtype, shape) : elementCount(shape));
    this.byte(OP.TUPLE, OP.PERSID);
    this.number(0);
    this.tuple(shape);
    this.tuple(stridesOf(shape));
    this.byte(OP.FALSE);
    this.dict(pyDict([], { isOrdered: true }));
    if (storage === undefined) this.value(torchDtype(dtype));
    this.byte(OP.TUPLE, OP.REDUCE);
  }
}

/** Typed storage classes by dtype. */
const STORAGE_OF: ReadonlyMap<Dtype, string> = new Map(
  [...TORCH_STORAGES].flatMap(([storage, name]) => {
    const dtype = TORCH_DTYPES.get(name)?.dtype;
    return dtype === undefined ? [] : [[dtype, storage] as const];
  }),
);

/** Of a contiguous row-major tensor, in elements. */
function stridesOf(shape: Shape): Shape {
  const strides: number[] = [];
  let stride = 1;
  for (const length of [...shape].reverse()) {
    strides.unshift(stride);
    stride *= Math.max(1, length);
  }
  return strides;
}
