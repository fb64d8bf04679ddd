// The object of a torch file as tensors with names: a tensor's name is the path of keys that leads to it, joined by
// "/". Which of them are the model is settled by shape, never by guessing at names inside: see chooseWeights.
import type { CheckpointFile, TensorEntry } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { SAFETENSORS_LIMITS } from "../../limits.ts";
import { asKind, isObject, type PickleTensor, type PickleValue } from "../pickle/value.ts";
import { placeTorchTensor } from "./file.ts";
import type { TorchFile } from "./storage.ts";

export type NamedTensor = { readonly path: readonly string[]; readonly tensor: PickleTensor };

/** Keys under which trainers put the state_dict of the model, beside other things. */
export const WRAPPERS: readonly string[] = ["state_dict", "model_state_dict", "model", "module"];

/** Every tensor below a value, in order. Values are bounded in depth and size when they are read. */
export function listTensors(value: PickleValue, path: readonly string[] = []): readonly NamedTensor[] {
  if (!isObject(value)) return [];
  if (value.kind === "tensor") return [{ path, tensor: value }];
  if (value.kind === "dict") {
    return [...value.entries.values()].flatMap(({ key, value: child }) => listTensors(child, [...path, keyText(key)]));
  }
  if (value.kind === "list" || value.kind === "tuple") {
    return value.items.flatMap((child, index) => listTensors(child, [...path, String(index)]));
  }
  return [];
}

function keyText(key: PickleValue): string {
  return isObject(key) ? key.kind : String(key);
}

export type Weights = { readonly tensors: readonly NamedTensor[]; readonly ignored: number };

/**
 * The model among a file's tensors: the tensors that the root dict holds itself; without any, those of the only wrapper
 * (`state_dict`, `model`, ...) that it has; else all. `ignored` counts the others.
 */
export function chooseWeights(value: PickleValue): Weights {
  const all = listTensors(value);
  const own = all.filter(({ path }) => path.length === 1);
  if (own.length > 0) return { tensors: own, ignored: all.length - own.length };
  const root = asKind(value, "dict");
  const wrappers = WRAPPERS.filter((name) => asKind(root?.entries.get(`s${name}`)?.value, "dict") !== undefined);
  const inner = all.filter(({ path }) => path.length === 2 && path[0] === wrappers[0]);
  if (wrappers.length !== 1 || inner.length === 0) return { tensors: all, ignored: 0 };
  const tensors = inner.map(({ path, tensor }) => ({ path: path.slice(1), tensor }));
  return { tensors, ignored: all.length - inner.length };
}

/**
 * The tensors as entries of a checkpoint.
 * Throws: TorchNameInvalid, TorchNameRepeated, and what placing a tensor throws.
 */
export function placeTensors(
  torch: TorchFile,
  tensors: readonly NamedTensor[],
  file: CheckpointFile,
): readonly TensorEntry[] {
  const names = new Set<string>();
  return tensors.map(({ path, tensor }) => {
    const name = path.join("/");
    const refuse = (code: ErrorCode, found: string, expected: string) =>
      new MergeyardError(code, { where: { file: file.name, tensor: name.slice(0, 200) }, found, expected });
    if (names.has(name)) throw refuse("TorchNameRepeated", "the name again", "every name once");
    names.add(name);
    checkName(name, refuse);
    return { name, ...placeTorchTensor(torch, tensor, name) };
  });
}

function checkName(name: string, refuse: (code: ErrorCode, found: string, expected: string) => MergeyardError): void {
  const isUsable = name.length <= SAFETENSORS_LIMITS.nameCharacters && name.isWellFormed() && !/\p{Cc}/u.test(name);
  if (isUsable && name !== "__metadata__") return;
  throw refuse("TorchNameInvalid", `${name.length} characters`, "a name that safetensors can hold");
}
