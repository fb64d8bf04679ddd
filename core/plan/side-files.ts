// The small files of the output: a config that fits the weights, one whole set of tokenizer files, every parent's
// licence, the index and the model card. What a file is, is decided by core/formats/side-files.ts.
// Source: reference `checkpoint-formats.md` section 1.5.
import assert from "node:assert/strict";
import type { CheckpointFile } from "../checkpoint.ts";
import { type FileRole, fileRole } from "../formats/side-files.ts";
import { stringifyPython } from "../json.ts";
import type { MergeMethod } from "../methods/method.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { sortByName } from "../utf8-order.ts";
import { type Architecture, configSections, tensorRole } from "./architecture.ts";
import { chooseChatTemplate } from "./chat-template.ts";
import { checkConfigs, checkQuantization } from "./config-check.ts";
import { GENERATION_FILE, readDocument } from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import { MODEL_CARD_FILE, writeModelCard } from "./model-card.ts";
import type { ModelView, ViewsByName } from "./model-view.ts";
import type { Notes } from "./notes.ts";
import { setTokenIds, writeOutputConfig } from "./output-config.ts";
import type { StackedLayers } from "./output-tensors.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import type { SideFile } from "./schema.ts";
import { tokenizerFiles } from "./tokenizer-files.ts";
import type { VocabularyPlan } from "./vocabulary.ts";

export type SideFileParts = {
  readonly name: string;
  readonly recipe: Recipe;
  readonly text: string;
  readonly method: MergeMethod;
  /** Every model and adapter; source indexes count in it. */
  readonly models: readonly MergeModel[];
  /** What the card lists; undefined: the models. */
  readonly inputs: readonly string[] | undefined;
  /** Every model that the recipe names, and those of them that are merged. */
  readonly views: ViewsByName;
  readonly merged: ViewsByName;
  /** In place of the config of the base (else of the first model). */
  readonly config?: Readonly<Record<string, unknown>> | undefined;
  readonly tensors: readonly PlannedTensor[];
  readonly stacks: readonly StackedLayers[];
  /** Undefined when the recipe keeps the base's tokenizer. */
  readonly vocabulary: VocabularyPlan | undefined;
  readonly index: { readonly name: string; readonly text: string } | undefined;
  readonly notes: Notes;
};

/** Roles of files that travel with the model whose config the output has. */
const DONATED: readonly FileRole[] = ["generation", "processor"];

/** The output's side files in name order. Throws PlanConfigMismatch, PlanDtypeNotMergeable (quantized parents). */
export function planSideFiles(parts: SideFileParts): readonly SideFile[] {
  const { recipe, models, notes, vocabulary, views, merged } = parts;
  const configs = [...merged].flatMap(([model, { own, reference }]) => {
    const { config } = own.model.checkpoint;
    const { overrideArchitecture: said } = reference;
    if (config === undefined) return [];
    return [{ model, config: said === undefined ? config : { ...config, architectures: [said] } }];
  });
  checkConfigs(recipe, configs, notes);
  if (parts.tensors.some(({ method }) => method !== "copy")) checkQuantization(recipe, configs);
  const donor = views.get(recipe.configSource ?? recipe.base ?? recipe.references[0]?.model ?? "");
  const origin = vocabulary === undefined ? donor : views.get(vocabulary.origin);
  assert.ok(donor !== undefined && origin !== undefined, "a recipe names models");
  const files: SideFile[] = [
    ...donatedFiles(donor, parts),
    ...tokenizerFiles(origin.tokenizer, { vocabulary, template: chooseChatTemplate(recipe, merged, notes) }, notes),
    ...configFile(donor, parts),
    ...licenceFiles(models, donor.own.source),
    ...(parts.index === undefined ? [] : [{ from: "text" as const, ...parts.index }]),
    { from: "text", name: MODEL_CARD_FILE, text: cardOf(parts) },
  ];
  return sortByName(files);
}

function donatedFiles(donor: ModelView, parts: SideFileParts): readonly SideFile[] {
  const { notes } = parts;
  const { model, source } = donor.own;
  const generation = renumberedGeneration(donor, parts);
  const taken: SideFile[] = generation === undefined ? [] : [generation];
  for (const { name, bytes } of model.checkpoint.sideFiles) {
    const role = fileRole(name);
    const isTaken = DONATED.includes(role) && name !== generation?.name;
    if (isTaken) taken.push({ from: "source", name, source, file: name, bytes });
    if (role === "code")
      notes.add("code is never run and never copied; add these files yourself if you trust them", name);
    if (role === "other") notes.add("files that are no known part of a model are not copied", name);
  }
  return taken;
}

/** What the output's vocabulary calls a token id of the donor; undefined where its ids are the output's. */
function renumbering({ reference }: ModelView, { vocabulary }: SideFileParts): ((id: number) => number) | undefined {
  const { model } = reference;
  if (vocabulary === undefined || vocabulary.origin === model) return undefined;
  return (id) => vocabulary.renumber(model, id);
}

/** The donor's generation config where the output's vocabulary numbers its tokens anew. */
function renumberedGeneration(donor: ModelView, parts: SideFileParts): SideFile | undefined {
  const renumber = renumbering(donor, parts);
  const config = renumber === undefined ? undefined : readDocument(donor.own.model, GENERATION_FILE);
  if (renumber === undefined || config === undefined) return undefined;
  const own = { ...config };
  setTokenIds(own, renumber);
  return { from: "text", name: GENERATION_FILE, text: stringifyPython(own) };
}

function configFile(donor: ModelView, parts: SideFileParts): readonly SideFile[] {
  const { tensors, views, config = donor.own.model.checkpoint.config } = parts;
  if (config === undefined) {
    parts.notes.add("the output has no config.json, since its model has none", donor.reference.model);
    return [];
  }
  const configOf = (model: string) => views.get(model)?.own.model.checkpoint.config;
  const saysTied = configSections(config).some((section) => section.tie_word_embeddings === true);
  const untied = saysTied && mergesUntiedHead(parts);
  if (untied) parts.notes.add("tie_word_embeddings is set to false: a parent's head differs from its embedding");
  const architecture = donor.reference.overrideArchitecture;
  const renumber = renumbering(donor, parts);
  const stacks = parts.stacks.map((stack) => ({ ...stack, before: donor.stacks.get(stack.prefix) }));
  const text = writeOutputConfig({ donor: config, architecture, tensors, stacks, configOf, untied, renumber });
  return [{ from: "text", name: "config.json", text }];
}

/** True when the output has a head and some parent stores one that its config does not tie. */
function mergesUntiedHead({ tensors, merged }: SideFileParts): boolean {
  return [...merged.values()].some((model) => !model.maybeTied && tensors.some(({ name }) => isHead(model, name)));
}

function isHead(model: Architecture, name: string): boolean {
  const entry = model.tensors.get(name);
  return entry !== undefined && tensorRole(entry, model.vocabulary) === "head";
}

/** The licence files of every parent; those of parents other than the config's carry the parent's name. */
function licenceFiles(models: readonly MergeModel[], donor: number): readonly SideFile[] {
  const names = new Set(models[donor]?.checkpoint.sideFiles.map(({ name }) => name));
  return models.flatMap(({ source, checkpoint }, index) =>
    checkpoint.sideFiles
      .filter(({ name }) => fileRole(name) === "licence")
      .map((file): SideFile => {
        const name = index === donor ? file.name : uniqueName(file, source.model, names);
        names.add(name);
        return { from: "source", name, source: index, file: file.name, bytes: file.bytes };
      }),
  );
}

function uniqueName({ name }: CheckpointFile, model: string, taken: ReadonlySet<string>): string {
  const slug = model
    .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
    .replaceAll(/^[-.]+|[-.]+$/g, "")
    .slice(-80);
  for (let number = 1; ; number++) {
    const candidate = `${name}.${slug}${number === 1 ? "" : `-${number}`}`;
    if (!taken.has(candidate)) return candidate;
  }
}

function cardOf({ name, recipe, text, method, models, inputs }: SideFileParts): string {
  return writeModelCard({
    name,
    method,
    models: inputs ?? models.map(({ source }) => source.model),
    base: recipe.base,
    recipe: text,
  });
}
