// The pickle machine: opcodes in, data out. It knows the opcodes that torch and its peers write (protocols 2 to 5) and
// the globals of a fixed table; it imports nothing and calls nothing. Every length is compared with the bytes that are
// left before anything is made, and opcodes, objects, depth and size of the result are bounded.
// Source: reference checkpoint-formats.md section 2.2; Python's pickletools.
import { viewOf } from "../../data-view.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { PICKLE_LIMITS } from "../../limits.ts";
import { checkResult } from "./check.ts";
import { GLOBALS, isSkipped, memberOf, type PickleTools, unsupportedTensor } from "./globals.ts";
import {
  asKind,
  describeValue,
  isObject,
  itemsOf,
  type PickleDict,
  type PickleKey,
  type PickleRecord,
  type PickleValue,
} from "./value.ts";

export type PickleOptions = {
  /** Name of the file, for errors. */
  readonly file: string;
  /** First byte of the pickle. */
  readonly start?: number;
  /** What a persistent id stands for; without it such ids are refused. */
  readonly persistent?: (id: PickleValue) => PickleValue;
};

/** `end`: the byte after STOP. */
export type Unpickled = { readonly value: PickleValue; readonly end: number };

/**
 * The value of one pickle. Throws: PickleTruncated (the bytes end before STOP), PickleInvalid, PickleOpcodeRefused,
 * PickleGlobalRefused, PickleTensorUnsupported, PicklePersistentIdInvalid, PickleTooLarge, PickleTooDeep, PickleCyclic.
 * Cost: memory a small multiple of the bytes, bounded by PICKLE_LIMITS.
 */
export function unpickle(bytes: Uint8Array, options: PickleOptions): Unpickled {
  const machine = new Machine(bytes, options);
  for (let opcodes = 0; ; opcodes += 1) {
    if (opcodes === PICKLE_LIMITS.opcodes) throw machine.tooLarge(`more than ${opcodes} opcodes`);
    const opcode = machine.byte();
    if (opcode === STOP) break;
    const run = OPCODES[opcode];
    if (run === undefined) {
      const found = `opcode 0x${opcode.toString(16).padStart(2, "0")}`;
      throw machine.error("PickleOpcodeRefused", found, "an opcode that torch writes");
    }
    run(machine);
  }
  const value = machine.pop();
  checkResult(value, options.file);
  return { value, end: machine.at };
}

const STOP = 0x2e;

/** Stack, memo and position while a pickle is read. */
class Machine implements PickleTools {
  at: number;
  stack: PickleValue[] = [];
  readonly marks: PickleValue[][] = [];
  readonly memo = new Map<number, PickleValue>();
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly options: PickleOptions;
  readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  objects = 0;

  constructor(bytes: Uint8Array, options: PickleOptions) {
    this.bytes = bytes;
    this.view = viewOf(bytes);
    this.options = options;
    this.at = options.start ?? 0;
  }

  error(code: ErrorCode, found: string, expected: string): MergeyardError {
    return new MergeyardError(code, { where: { file: this.options.file, offset: this.at }, found, expected });
  }

  invalid(found: string, expected: string): MergeyardError {
    return this.error("PickleInvalid", found, expected);
  }

  refused(found: string): MergeyardError {
    return this.error("PickleGlobalRefused", found, "tensors, numbers, text and plain containers");
  }

  unsupported(found: string): MergeyardError {
    return this.error("PickleTensorUnsupported", found, "a dense tensor");
  }

  tooLarge(found: string): MergeyardError {
    return this.error("PickleTooLarge", found, "a pickle within the bounds of any honest checkpoint");
  }

  /** Claims `bytes` bytes of the input and returns where they begin. */
  take(bytes: number): number {
    const start = this.at;
    if (bytes > this.bytes.length - start) {
      throw this.error("PickleTruncated", `${this.bytes.length - start} bytes left`, `${bytes} bytes`);
    }
    this.at = start + bytes;
    return start;
  }

  byte(): number {
    return this.view.getUint8(this.take(1));
  }

  uint32(): number {
    return this.view.getUint32(this.take(4), true);
  }

  /** A 64-bit length; what does not fit in the input is refused by `take`. */
  uint64(): number {
    return Number(this.view.getBigUint64(this.take(8), true));
  }

  slice(bytes: number): Uint8Array {
    const start = this.take(bytes);
    return this.bytes.subarray(start, start + bytes);
  }

  text(bytes: number): string {
    try {
      return this.decoder.decode(this.slice(bytes));
    } catch (cause) {
      if (cause instanceof MergeyardError) throw cause;
      throw this.invalid("bytes that are not UTF-8", "text");
    }
  }

  /** Text up to a newline, as protocol 0 writes names. */
  line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) throw this.error("PickleTruncated", "no end of line", "a name");
    const text = this.text(end - this.at);
    this.at += 1;
    return text;
  }

  push(value: PickleValue): void {
    if (isObject(value) || typeof value === "string") {
      this.objects += 1;
      if (this.objects > PICKLE_LIMITS.objects) throw this.tooLarge(`more than ${PICKLE_LIMITS.objects} objects`);
    }
    this.stack.push(value);
  }

  pop(): PickleValue {
    const value = this.stack.pop();
    if (value === undefined) throw this.invalid("an empty stack", "a value");
    return value;
  }

  top(): PickleValue {
    const value = this.stack.at(-1);
    if (value === undefined) throw this.invalid("an empty stack", "a value");
    return value;
  }

  mark(): void {
    this.marks.push(this.stack);
    this.stack = [];
  }

  /** The values since the last mark. */
  popMark(): PickleValue[] {
    const values = this.stack;
    const below = this.marks.pop();
    if (below === undefined) throw this.invalid("no mark", "a mark");
    this.stack = below;
    return values;
  }

  popMany(count: number): readonly PickleValue[] {
    if (this.stack.length < count) throw this.invalid(`${this.stack.length} values`, `${count} values`);
    return this.stack.splice(this.stack.length - count);
  }

  remember(index: number): void {
    this.memo.set(index, this.top());
    if (this.memo.size > PICKLE_LIMITS.objects) throw this.tooLarge(`more than ${PICKLE_LIMITS.objects} memo entries`);
  }

  recall(index: number): void {
    const value = this.memo.get(index);
    if (value === undefined) throw this.invalid(`memo entry ${index}`, "an entry that was made before");
    this.stack.push(value);
  }

  global(module: string, name: string): void {
    const full = `${module} ${name}`;
    const unsupported = unsupportedTensor(full);
    if (unsupported !== undefined) throw this.unsupported(`${unsupported} (${full})`);
    const meaning = GLOBALS.get(full);
    if (meaning === undefined) throw this.refused(full.slice(0, 200));
    this.push(meaning.value ?? { kind: "global", name: full });
  }

  dictOf(pairs: readonly PickleValue[]): PickleDict {
    const dict: PickleDict = { kind: "dict", entries: new Map() };
    for (const pair of pairs) {
      const [key, value, ...others] = itemsOf(pair) ?? [];
      if (key === undefined || value === undefined || others.length > 0) throw this.invalid("no pair", "a pair");
      this.setItem(dict, key, value);
    }
    return dict;
  }

  setItem(dict: PickleDict, key: PickleValue, value: PickleValue): void {
    dict.entries.set(this.keyOf(key), { key, value });
  }

  /** Equal keys give equal results; 1, 1.0 and True are one key, as in Python. */
  keyOf(key: PickleValue): PickleKey {
    if (typeof key === "string") return `s${key}`;
    if (typeof key === "boolean") return `n${Number(key)}`;
    if (!isObject(key)) return `n${key}`;
    if (key.kind === "record") return key;
    if (key.kind === "enum") return `e${key.type} ${key.member}`;
    if (key.kind === "global" || key.kind === "dtype") return `g${key.name}`;
    if (key.kind === "tuple" && key.items.length <= 64 && !key.items.some(isObject)) {
      return `t${key.items.map((item) => JSON.stringify(this.keyOf(item))).join()}`;
    }
    throw this.invalid(describeValue(key), "a key of a dict that is plain");
  }

  setItems(target: PickleValue, items: readonly PickleValue[]): void {
    const dict = asKind(target, "dict");
    if (dict === undefined && isSkipped(target)) return;
    if (dict === undefined || items.length % 2 !== 0) throw this.invalid(describeValue(target), "a dict and pairs");
    for (let index = 0; index < items.length; index += 2) {
      this.setItem(dict, items[index] ?? null, items[index + 1] ?? null);
    }
  }

  append(target: PickleValue, items: readonly PickleValue[], kind: "list" | "set"): void {
    const list = asKind(target, kind);
    if (list === undefined) throw this.invalid(describeValue(target), `a ${kind}`);
    for (const item of items) list.items.push(item);
  }

  reduce(): void {
    const args = itemsOf(this.pop());
    const callee = asKind(this.pop(), "global");
    if (callee === undefined || args === undefined) throw this.invalid("no global and tuple", "a global and a tuple");
    const { call, members } = GLOBALS.get(callee.name) ?? {};
    const member = members === undefined ? undefined : memberOf(callee.name, members, args);
    const value = call === undefined ? member : call(args, this);
    if (value === undefined) throw this.refused(`${callee.name} called`);
    this.push(value);
  }

  newObject(): void {
    const args = itemsOf(this.pop());
    const callee = asKind(this.pop(), "global");
    if (callee === undefined || args === undefined) throw this.invalid("no global and tuple", "a global and a tuple");
    const { isRecord, call } = GLOBALS.get(callee.name) ?? {};
    if (isRecord !== true && call === undefined) throw this.refused(`an instance of ${callee.name}`);
    const record: PickleRecord = { kind: "record", type: callee.name, fields: new Map(), state: { value: null } };
    this.push(call === undefined ? record : call(args, this));
  }

  /** Fields of a record. State of a dict (a state_dict's `_metadata`) and of what is skipped is dropped. */
  build(): void {
    const state = this.pop();
    const target = this.top();
    const record = asKind(target, "record");
    if (record === undefined) {
      if (asKind(target, "dict") === undefined && !isSkipped(target))
        throw this.refused(`state of ${describeValue(target)}`);
      return;
    }
    const fields = asKind(state, "dict");
    if (fields === undefined) record.state.value = state;
    for (const { key, value } of fields?.entries.values() ?? []) {
      if (typeof key !== "string") throw this.invalid(describeValue(key), "the name of a field");
      record.fields.set(key, value);
    }
  }

  persistentId(): void {
    const id = this.pop();
    const { persistent } = this.options;
    if (persistent === undefined) {
      throw this.error("PicklePersistentIdInvalid", describeValue(id), "no persistent ids here");
    }
    this.push(persistent(id));
  }

  /** A little-endian two's complement integer. */
  long(bytes: number): void {
    const digits = this.slice(bytes);
    if (bytes > PICKLE_LIMITS.integerBytes) throw this.tooLarge(`an integer of ${bytes} bytes`);
    let value = 0n;
    for (let index = bytes - 1; index >= 0; index -= 1) value = (value << 8n) | BigInt(digits[index] ?? 0);
    value = BigInt.asIntN(8 * bytes, value);
    const small = Number(value);
    this.push(Number.isSafeInteger(small) ? small : value);
  }
}

type Run = (machine: Machine) => void;

const tuple = (items: readonly PickleValue[]): PickleValue => ({ kind: "tuple", items });
const pushText =
  (length: (m: Machine) => number): Run =>
  (m) =>
    m.push(m.text(length(m)));
const pushBytes =
  (length: (m: Machine) => number): Run =>
  (m) =>
    m.push({ kind: "bytes", bytes: m.slice(length(m)) });
const byteLength = (m: Machine): number => m.byte();
const wordLength = (m: Machine): number => m.uint32();

/** By opcode; what is not here is refused. Names in comments are pickletools'. */
const OPCODES: readonly (Run | undefined)[] = tableOf([
  [0x80, (m) => void m.take(1)], // PROTO
  [0x95, (m) => void m.take(8)], // FRAME: only a hint for buffering
  [0x28, (m) => m.mark()], // MARK
  [0x30, popOne], // POP
  [0x4e, (m) => m.push(null)], // NONE
  [0x88, (m) => m.push(true)], // NEWTRUE
  [0x89, (m) => m.push(false)], // NEWFALSE
  [0x4a, (m) => m.push(m.view.getInt32(m.take(4), true))], // BININT
  [0x4b, (m) => m.push(m.byte())], // BININT1
  [0x4d, (m) => m.push(m.view.getUint16(m.take(2), true))], // BININT2
  [0x8a, (m) => m.long(m.byte())], // LONG1
  [0x8b, (m) => m.long(m.uint32())], // LONG4: a negative length is one beyond the input
  [0x47, (m) => m.push(m.view.getFloat64(m.take(8), false))], // BINFLOAT
  [0x58, pushText(wordLength)], // BINUNICODE
  [0x8c, pushText(byteLength)], // SHORT_BINUNICODE
  [0x8d, pushText((m) => m.uint64())], // BINUNICODE8
  [0x54, pushText(wordLength)], // BINSTRING
  [0x55, pushText(byteLength)], // SHORT_BINSTRING
  [0x42, pushBytes(wordLength)], // BINBYTES
  [0x43, pushBytes(byteLength)], // SHORT_BINBYTES
  [0x8e, pushBytes((m) => m.uint64())], // BINBYTES8
  [0x96, pushBytes((m) => m.uint64())], // BYTEARRAY8
  [0x7d, (m) => m.push({ kind: "dict", entries: new Map() })], // EMPTY_DICT
  [0x5d, (m) => m.push({ kind: "list", items: [] })], // EMPTY_LIST
  [0x8f, (m) => m.push({ kind: "set", items: [] })], // EMPTY_SET
  [0x29, (m) => m.push(tuple([]))], // EMPTY_TUPLE
  [0x85, (m) => m.push(tuple(m.popMany(1)))], // TUPLE1
  [0x86, (m) => m.push(tuple(m.popMany(2)))], // TUPLE2
  [0x87, (m) => m.push(tuple(m.popMany(3)))], // TUPLE3
  [0x74, (m) => m.push(tuple(m.popMark()))], // TUPLE
  [0x91, (m) => m.push({ kind: "set", items: m.popMark() })], // FROZENSET
  [0x61, (m) => appendOne(m)], // APPEND
  [0x65, (m) => appendMany(m, "list")], // APPENDS
  [0x90, (m) => appendMany(m, "set")], // ADDITEMS
  [0x73, setOne], // SETITEM
  [0x75, setMany], // SETITEMS
  [0x71, (m) => m.remember(m.byte())], // BINPUT
  [0x72, (m) => m.remember(m.uint32())], // LONG_BINPUT
  [0x94, (m) => m.remember(m.memo.size)], // MEMOIZE
  [0x68, (m) => m.recall(m.byte())], // BINGET
  [0x6a, (m) => m.recall(m.uint32())], // LONG_BINGET
  [0x63, (m) => m.global(m.line(), m.line())], // GLOBAL
  [0x93, stackGlobal], // STACK_GLOBAL
  [0x52, (m) => m.reduce()], // REDUCE
  [0x81, (m) => m.newObject()], // NEWOBJ
  [0x62, (m) => m.build()], // BUILD
  [0x51, (m) => m.persistentId()], // BINPERSID
]);

function tableOf(rows: readonly (readonly [number, Run])[]): readonly (Run | undefined)[] {
  const table = new Array<Run | undefined>(256).fill(undefined);
  for (const [opcode, run] of rows) table[opcode] = run;
  return Object.freeze(table);
}

/** Drops a value, or the mark when nothing is above it. */
function popOne(m: Machine): void {
  if (m.stack.length > 0) m.pop();
  else m.popMark();
}

function appendOne(m: Machine): void {
  const item = m.pop();
  m.append(m.top(), [item], "list");
}

function appendMany(m: Machine, kind: "list" | "set"): void {
  const items = m.popMark();
  m.append(m.top(), items, kind);
}

function setOne(m: Machine): void {
  const items = m.popMany(2);
  m.setItems(m.top(), items);
}

function setMany(m: Machine): void {
  const items = m.popMark();
  m.setItems(m.top(), items);
}

function stackGlobal(m: Machine): void {
  const [module, name] = m.popMany(2);
  if (typeof module !== "string" || typeof name !== "string") throw m.invalid("no two texts", "module and name");
  m.global(module, name);
}
