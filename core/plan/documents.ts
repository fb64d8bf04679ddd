// Small documents beside a model's weights that the planner reads: which ones a recipe needs, and their JSON. An edge
// fetches them; everything else beside the weights is only ever copied.
import { type ErrorPlace, MergeyardError } from "../error.ts";
import { GGUF_TOKENIZER_FILES } from "../formats/gguf/tokenizer-files.ts";
import { parseJsonObject } from "../formats/json-scan.ts";
import type { Recipe } from "../recipe/normalise.ts";
import type { Outputs } from "../recipe/outputs.ts";
import type { MergeModel } from "./merge-task.ts";

export const TOKENIZER_FILE = "tokenizer.json";
export const TOKENIZER_CONFIG_FILE = "tokenizer_config.json";
export const SPECIAL_TOKENS_FILE = "special_tokens_map.json";
export const CHAT_TEMPLATE_FILE = "chat_template.jinja";
export const ADAPTER_CONFIG_FILE = "adapter_config.json";
export const GENERATION_FILE = "generation_config.json";

/**
 * Names of the documents that the plan of a recipe with these outputs, or of a stage of it, reads of every model that
 * has them.
 */
export function documentNames(recipe: Recipe, outputs?: Outputs): readonly string[] {
  const recipes = [recipe, ...recipe.stages.map((stage) => stage.recipe)];
  const adapts = recipes.some(({ references }) => references.some(({ adapter }) => adapter !== undefined));
  const tokenizes = recipes.some(({ tokenizer, moe }) => tokenizer !== undefined || usesPrompts(moe));
  const writesTokenizer = outputs?.gguf.some(({ tokenizer }) => tokenizer) === true;
  const talks = recipes.some(({ chatTemplate }) => chatTemplate !== undefined);
  return [
    ...(adapts ? [ADAPTER_CONFIG_FILE] : []),
    ...(tokenizes ? [TOKENIZER_FILE, SPECIAL_TOKENS_FILE, GENERATION_FILE] : []),
    ...(talks ? [CHAT_TEMPLATE_FILE] : []),
    ...(tokenizes || talks ? [TOKENIZER_CONFIG_FILE] : []),
    ...(writesTokenizer ? GGUF_TOKENIZER_FILES : []),
  ];
}

/** Prompts are encoded by the base's tokenizer. */
function usesPrompts(moe: Recipe["moe"]): boolean {
  return moe !== undefined && moe.gateMode !== "random" && moe.gateMode !== "uniform_random";
}

/** The place of a model's document in errors. */
export function documentPlace({ source }: MergeModel, name: string): ErrorPlace {
  return { store: source.store, file: `${source.prefix}${name}`, model: source.model };
}

/** A document that holds one JSON object; undefined when the model has no such file. Throws PlanDocumentInvalid. */
export function readDocument(model: MergeModel, name: string): Readonly<Record<string, unknown>> | undefined {
  const bytes = model.documents?.get(name);
  return bytes === undefined ? undefined : parseObject(bytes, documentPlace(model, name));
}

/** The one JSON object that a document holds. Throws PlanDocumentInvalid. */
export function parseObject(bytes: Uint8Array, where: ErrorPlace): Readonly<Record<string, unknown>> {
  return parseJsonObject(bytes, {
    pythonNumbers: true,
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("PlanDocumentInvalid", { where: { ...where, offset }, found, expected }),
  });
}
