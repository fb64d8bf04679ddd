// A model with an adapter, seen as one checkpoint: every tensor of the model with the update that the adapter makes to
// it, tensors that the adapter holds whole in place of the model's, and nothing of the adapter left over.
// Source: peft's merge of LoRA layers, reference section 12; rounding is ours (`LoraUpdate` in core/plan/schema.ts).

import { olderNames } from "../adapter/module-names.ts";
import { groupAdapter, type ModuleFactors } from "../adapter/modules.ts";
import { type AdapterConfig, readAdapterConfig } from "../adapter/peft.ts";
import type { Checkpoint, Packing, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { isFloatDtype } from "../ops/cast.ts";
import { elementCount } from "../tensor.ts";
import { updateExperts } from "./adapter-experts.ts";
import { describeArchitecture, tensorRole } from "./architecture.ts";
import { ADAPTER_CONFIG_FILE, documentPlace, readDocument } from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import type { Notes } from "./notes.ts";
import type { LoraFactor, LoraUpdate, StoredTensor } from "./schema.ts";

/** A tensor as planning sees it, and how it is read. */
export type ViewedTensor = { readonly entry: TensorEntry; readonly stored: StoredTensor };

/** A model or an adapter, and its index among the plan's sources. */
export type IndexedModel = { readonly model: MergeModel; readonly source: number };

/** The stored form of a tensor of source `source`. */
export function storedTensor({ name, dtype, shape, ranges, packing }: TensorEntry, source: number): StoredTensor {
  const place = { source, tensor: name, dtype, shape: [...shape], ranges: ranges.map((range) => ({ ...range })) };
  return packing === undefined ? place : { ...place, packing: plainPacking(packing) };
}

/** The packing as the schema's mutable values. */
export function plainPacking({ parts, ...packing }: Packing): NonNullable<StoredTensor["packing"]> {
  if (parts?.container !== "compressed-tensors") return parts === undefined ? packing : { ...packing, parts };
  const { block, ...form } = parts;
  const sizes: { block?: [number, number] } = block === undefined ? {} : { block: [block[0], block[1]] };
  return { ...packing, parts: { ...form, ...sizes } };
}

/**
 * The tensors of `base` with the adapter merged.
 * Throws PlanAdapterInvalid, PlanAdapterNotSupported, PlanAdapterUnmatched, PlanDocumentInvalid.
 */
export function applyAdapter(base: IndexedModel, adapter: IndexedModel, notes: Notes): readonly ViewedTensor[] {
  const where = documentPlace(adapter.model, ADAPTER_CONFIG_FILE);
  const document = readDocument(adapter.model, ADAPTER_CONFIG_FILE);
  if (document === undefined) throw new MergeyardError("PlanAdapterInvalid", { where, found: "no such file" });
  const config = readAdapterConfig(document, where);
  const place = { store: adapter.model.source.store, model: adapter.model.source.model };
  const { modules, whole } = groupAdapter(adapter.model.checkpoint.tensors, place);
  const tensors = new Map(
    base.model.checkpoint.tensors.map((entry) => [entry.name, { entry, stored: storedTensor(entry, base.source) }]),
  );
  const tied = tiedEmbedding(base.model.checkpoint);
  if (tied !== undefined) {
    tensors.set(LM_HEAD, { entry: { ...tied, name: LM_HEAD }, stored: storedTensor(tied, base.source) });
  }
  // First, since PEFT saves an embedding that has factors whole as well, as it is without them.
  for (const { name, entry } of whole) {
    const own = findName(tensors, name) ?? name;
    if (!tensors.has(own)) notes.add(`tensors of ${adapter.model.source.model} that its model lacks are added`, own);
    tensors.set(own, { entry: { ...entry, name: own }, stored: storedTensor(entry, adapter.source) });
  }
  for (const factors of modules) {
    for (const { name, lora } of updatesOf(factors, tensors, config, adapter.source)) {
      const target = tensors.get(name);
      if (target !== undefined) tensors.set(name, { ...target, stored: { ...target.stored, lora } });
    }
  }
  if (tied !== undefined && !partsHead(tensors, tied, adapter.source)) tensors.delete(LM_HEAD);
  return [...tensors.values()];
}

/** True where the adapter, source `source`, made the tensor another. */
export function isAdapted({ stored }: ViewedTensor, source: number): boolean {
  return stored.lora !== undefined || stored.source === source;
}

/** Models whose head has this name; in others there may be none. Source: transformers' model classes. */
const HAS_LM_HEAD = /(?:ForCausalLM|LMHeadModel)$/;
export const LM_HEAD = "lm_head.weight";

/** The embedding that is also the head of a model that stores no head of its own; undefined of other models. */
export function tiedEmbedding(checkpoint: Checkpoint): TensorEntry | undefined {
  const { config, tensors } = checkpoint;
  const { maybeTied, vocabulary } = describeArchitecture(checkpoint);
  const [architecture] = Array.isArray(config?.architectures) ? config.architectures : [];
  if (!maybeTied || !HAS_LM_HEAD.test(String(architecture))) return undefined;
  if (tensors.some((entry) => tensorRole(entry, vocabulary) === "head")) return undefined;
  return tensors.find((entry) => tensorRole(entry, vocabulary) === "embedding");
}

/**
 * True where a tied head is a tensor of its own now: the adapter changes it, or the embedding alone, beside which the
 * head stays what the embedding was, as it did while the adapter was trained; PEFT's merge of factors changes both.
 * Where their sizes differ only the adapter has rows for all tokens.
 */
function partsHead(tensors: Tensors, embedding: TensorEntry, adapter: number): boolean {
  const [own, head] = [tensors.get(embedding.name), tensors.get(LM_HEAD)];
  if (own === undefined || head === undefined) return false;
  return isAdapted(head, adapter) || (isAdapted(own, adapter) && own.entry.shape[0] === head.entry.shape[0]);
}

type Tensors = ReadonlyMap<string, ViewedTensor>;

/** The updates that a module's factors make: of its own tensor, or of all its experts'. */
function updatesOf(factors: ModuleFactors, tensors: Tensors, config: AdapterConfig, source: number) {
  const find = (name: string) => tensors.get(findName(tensors, name) ?? "")?.entry;
  const experts = updateExperts(factors, find, config, (entry) => factor(entry, source, false));
  if (experts === undefined) {
    const { entry } = findTarget(tensors, factors);
    return [{ name: entry.name, lora: makeUpdate(factors, entry, config, source) }];
  }
  for (const { name } of experts) checkFloats([tensors.get(name)?.entry, factors.a, factors.b], factors);
  return experts;
}

function findTarget(tensors: Tensors, { module, kind, where }: ModuleFactors): ViewedTensor {
  const wanted = `${module}.${kind === "bias" ? "bias" : "weight"}`;
  const name = findName(tensors, wanted);
  const target = name === undefined ? undefined : tensors.get(name);
  if (target !== undefined) return target;
  throw new MergeyardError("PlanAdapterUnmatched", { where, found: "no such tensor in the model", expected: wanted });
}

/** The model's name of a tensor, by what an adapter calls it or what transformers 5 made of that. */
function findName(tensors: Tensors, wanted: string): string | undefined {
  for (const name of [wanted, ...olderNames(wanted)]) {
    const found = findNear(tensors, name);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * The same name, or the only one that is longer or shorter by parts in front. An adapter that was trained on a part of
 * a model, or on a model inside of another, calls its tensors by shorter or longer names.
 */
function findNear(tensors: Tensors, wanted: string): string | undefined {
  if (tensors.has(wanted)) return wanted;
  const near = [...tensors.keys()].filter((name) => name.endsWith(`.${wanted}`) || wanted.endsWith(`.${name}`));
  return near.length === 1 ? near[0] : undefined;
}

function makeUpdate(factors: ModuleFactors, target: TensorEntry, config: AdapterConfig, source: number): LoraUpdate {
  const { a, b, kind, module, where } = factors;
  const refuse = (found: string, expected: string): never => {
    throw new MergeyardError("PlanAdapterInvalid", { where, found, expected });
  };
  if (b === undefined || (kind !== "bias" && a === undefined)) return refuse("one factor", "lora_A and lora_B");
  checkFloats([target, b, a], factors);
  if (a === undefined) {
    if (elementCount(b.shape) !== elementCount(target.shape)) refuse(shapeText(b), shapeText(target));
    // A bias has no rank of its own: its scale is that of the module's factors.
    const { expectedRank: rank } = config.scaleOf(module, 1);
    return { rank: 1, scale: config.scaleOf(module, rank).scale, left: factor(b, source, false) };
  }
  const rank = a.shape[0] ?? 0;
  const { expectedRank, scale } = config.scaleOf(module, rank);
  if (rank !== expectedRank) refuse(`rank ${rank}`, `rank ${expectedRank}, by ${ADAPTER_CONFIG_FILE}`);
  const swapped = isSwapped(factors, target, config);
  if (swapped === undefined)
    return refuse(`${shapeText(b)} x ${shapeText(a)}`, `a product of shape ${shapeText(target)}`);
  return swapped
    ? { rank, scale, left: factor(a, source, true), right: factor(b, source, true) }
    : { rank, scale, left: factor(b, source, false), right: factor(a, source, false) };
}

function checkFloats(entries: readonly (TensorEntry | undefined)[], { where }: ModuleFactors): void {
  const wrong = entries.find((entry) => entry !== undefined && !isFloatDtype(entry.dtype));
  if (wrong === undefined) return;
  const found = `${wrong.dtype} in ${wrong.name}`;
  throw new MergeyardError("PlanAdapterInvalid", { where, found, expected: "F32, F16, BF16 or F64" });
}

/**
 * Whether the update is (B A)^T: embeddings and weights that are stored [in, out]. Undefined when neither fits. Of a
 * square weight only the config can tell.
 */
function isSwapped({ a, b, kind }: ModuleFactors, target: TensorEntry, config: AdapterConfig): boolean | undefined {
  const rows = target.shape[0] ?? 1;
  const columns = elementCount(target.shape.slice(1));
  const rank = a?.shape[0] ?? 0;
  const inputs = elementCount(a?.shape.slice(1) ?? []);
  const outputs = b?.shape[0];
  // A convolution's second factor has a kernel of one element.
  if (elementCount(b?.shape.slice(1) ?? []) !== rank) return undefined;
  const plain = outputs === rows && inputs === columns;
  const turned = outputs === columns && inputs === rows && target.shape.length === 2;
  if (plain && turned) return kind === "embedding" || config.storesInputFirst;
  return plain ? false : turned ? true : undefined;
}

function factor(entry: TensorEntry, source: number, swapped: boolean): LoraFactor {
  const { lora: _, ...place } = storedTensor(entry, source);
  return { ...place, swapped };
}

function shapeText({ shape }: TensorEntry): string {
  return `[${shape.join(", ")}]`;
}
