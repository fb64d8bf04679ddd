// Golden cases of torch files: what torch.save wrote must give the same tree and, bit for bit, the same tensors;
// hostile files must be refused for the reason that the set states. Source of the form: checkpoint reference, section
// 9.
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import type { TensorEntry } from "../../core/checkpoint.ts";
import type { PickleObject, PickleValue } from "../../core/formats/pickle/value.ts";
import { isObject } from "../../core/formats/pickle/value.ts";
import { readTorchFile } from "../../core/formats/torch/file.ts";
import type { TorchFile } from "../../core/formats/torch/storage.ts";
import { listTensors, placeTensors } from "../../core/formats/torch/tree.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { failed, type GoldenCase, type GoldenSet, PASSED, type Verdict } from "./case.ts";
import { judge, type Reasons } from "./refusal.ts";
import { readTensor } from "./tensors.ts";

const torchCase = z.object({
  file: z.string(),
  expect: z.enum(["load", "refuse", "either"]),
  reason: z.string().optional(),
  tree: z.unknown().optional(),
  tensors: z.string().optional(),
  share_storage: z.array(z.array(z.string())).optional(),
});
const document = z.object({ reasons: z.string(), cases: z.array(torchCase) });
type TorchCase = z.output<typeof torchCase>;

const REASONS: Reasons = {
  global_not_allowed: ["PickleGlobalRefused"],
  opcode_not_allowed: ["PickleOpcodeRefused"],
  bad_persistent_id: ["PicklePersistentIdInvalid"],
  not_a_torch_file: ["TorchNotRecognised", "TorchForeignContent"],
  lfs_pointer: ["TorchForeignContent"],
  tensor_out_of_bounds: ["TorchTensorOutOfBounds"],
  bad_shape: ["TorchShapeInvalid"],
  too_large: ["TorchTensorTooLarge", "PickleTooLarge"],
  storage_size_mismatch: ["TorchStorageSizeMismatch"],
  storage_type_conflict: ["TorchStorageTypeConflict"],
  missing_record: ["TorchRecordMissing"],
  truncated_pickle: ["PickleTruncated"],
  bad_pickle: ["PickleInvalid"],
  too_deep: ["PickleTooDeep"],
  cyclic: ["PickleCyclic"],
  trailing_data: ["PickleTrailing"],
  unsupported_tensor: ["PickleTensorUnsupported"],
  compressed_record: ["ZipEntryCompressed"],
  torchscript: ["TorchScriptUnsupported"],
  ambiguous_root: ["TorchRootAmbiguous"],
  duplicate_record: ["ZipEntryRepeated"],
  truncated_zip: ["ZipEndMissing"],
  bad_zip: ["ZipInvalid"],
  truncated_storage: ["TorchStorageTruncated"],
  /** Not in the set: big-endian files may be refused, and are. */
  byte_order: ["TorchByteOrderUnsupported"],
};

/** Sets whose cases name a `file` that torch.load would read. */
export const torchSet: GoldenSet = {
  id: "torch",
  open(folder, content) {
    const parsed = document.safeParse(content);
    if (!parsed.success) return undefined;
    return parsed.data.cases.map((entry): GoldenCase => ({ id: entry.file, run: () => run(folder, entry) }));
  },
};

function run(folder: string, entry: TorchCase): Promise<Verdict> {
  const isBig = entry.file === "valid/byteorder_big.pt";
  const expectation = isBig ? { expect: "either", reason: "byte_order" } : entry;
  return judge(expectation, REASONS, () => load(folder, entry));
}

async function load(folder: string, entry: TorchCase): Promise<Verdict> {
  const path = join(folder, entry.file);
  if (!/\.(pt|bin)$/.test(entry.file)) {
    const store = createDirectoryStore(path, { durable: false });
    const { checkpoint } = await openCheckpoint(store, "");
    return compareTensors(folder, entry, store, checkpoint.tensors);
  }
  const store = createDirectoryStore(dirname(path), { durable: false });
  const name = basename(path);
  const file = { name, bytes: (await store.head(name))?.bytes ?? 0 };
  const torch = await readTorchFile(async (offset, bytes) => {
    const into = new Uint8Array(bytes);
    if (bytes > 0) await store.readInto(name, offset, into);
    return into;
  }, file);
  const tensors = placeTensors(torch, listTensors(torch.value), file);
  const tree = JSON.stringify(treeOf(torch.value, []));
  if (entry.tree !== undefined && tree !== JSON.stringify(entry.tree)) return failed(`the tree is ${tree}`);
  const shared = JSON.stringify(sharedStorages(torch));
  if (entry.share_storage !== undefined && shared !== JSON.stringify(entry.share_storage)) {
    return failed(`shared storages are ${shared}`);
  }
  return compareTensors(folder, entry, store, tensors);
}

async function compareTensors(
  folder: string,
  entry: TorchCase,
  store: ObjectStore,
  tensors: readonly TensorEntry[],
): Promise<Verdict> {
  if (entry.tensors === undefined) return PASSED;
  const file = join(folder, entry.tensors);
  return compareWithFile(file, store, tensors);
}

/** The tensors against those of a safetensors file: the same names, dtypes, shapes and bits. */
async function compareWithFile(file: string, store: ObjectStore, tensors: readonly TensorEntry[]): Promise<Verdict> {
  const expectedStore = createDirectoryStore(dirname(file), { durable: false });
  const { checkpoint } = await openCheckpointFile(expectedStore, basename(file));
  const got = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const extra = tensors.find(({ name }) => !checkpoint.tensors.some((tensor) => tensor.name === name));
  if (extra !== undefined) return failed(`unexpected tensor ${extra.name}`);
  for (const expected of checkpoint.tensors) {
    const tensor = got.get(expected.name);
    if (tensor === undefined) return failed(`no tensor ${expected.name}`);
    if (tensor.dtype !== expected.dtype || tensor.shape.join() !== expected.shape.join()) {
      return failed(`${tensor.name} is ${tensor.dtype} [${tensor.shape}], not ${expected.dtype} [${expected.shape}]`);
    }
    const [a, b] = await Promise.all([readTensor(store, tensor), readTensor(expectedStore, expected)]);
    if (Buffer.compare(a.bytes, b.bytes) !== 0) return failed(`${tensor.name}: bytes differ`);
  }
  return PASSED;
}

/** The value in the set's own notation. */
function treeOf(value: PickleValue, path: readonly string[]): unknown {
  if (typeof value === "bigint") return { bigint: String(value) };
  return isObject(value) ? objectTree(value, path) : value;
}

function objectTree(value: PickleObject, path: readonly string[]): unknown {
  switch (value.kind) {
    case "dict": {
      const entries = [...value.entries.values()];
      return {
        dict: entries.map(({ key, value: child }) => [treeOf(key, path), treeOf(child, [...path, String(key)])]),
      };
    }
    case "list":
      return { list: value.items.map((item, index) => treeOf(item, [...path, String(index)])) };
    case "tuple": {
      const items = value.items.map((item, index) => treeOf(item, [...path, String(index)]));
      return value.isSize === true ? { size: items } : { tuple: items };
    }
    case "tensor":
      return { tensor: path.join("/"), dtype: value.element.dtype, shape: value.size };
    case "dtype":
      return { dtype: value.name };
    default:
      return { [value.kind]: true };
  }
}

function sharedStorages({ value }: TorchFile): readonly (readonly string[])[] {
  const groups = Map.groupBy(listTensors(value), ({ tensor }) => tensor.storage.key);
  return [...groups.values()]
    .map((members) => members.map(({ path }) => path.join("/")).sort())
    .filter((names) => names.length > 1)
    .sort();
}
