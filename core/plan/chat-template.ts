// The output's chat template: the recipe's, or that of most models. Where a model keeps its own: `chat_template.jinja`,
// else `chat_template` of `tokenizer_config.json`, as transformers looks for it.
import type { Recipe } from "../recipe/normalise.ts";
import { CHAT_TEMPLATE_FILE, readDocument, TOKENIZER_CONFIG_FILE } from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import type { ViewsByName } from "./model-view.ts";
import type { Notes } from "./notes.ts";

/** The template that the recipe asks for; undefined when the base's is kept, or when no model has one. */
export function chooseChatTemplate(recipe: Recipe, merged: ViewsByName, notes: Notes): string | undefined {
  const { chatTemplate } = recipe;
  if (chatTemplate === undefined) return undefined;
  if (chatTemplate.kind === "text") return chatTemplate.text;
  const counts = new Map<string, { readonly text: string; count: number }>();
  for (const { model } of recipe.references) {
    const text = readTemplate(merged.get(model)?.tokenizer.model);
    if (text === undefined) continue;
    const known = counts.get(text.trim()) ?? { text, count: 0 };
    known.count += 1;
    counts.set(text.trim(), known);
  }
  const [first, ...others] = counts.values();
  if (first === undefined) {
    notes.add("chat_template: auto has nothing to choose from: no model has a template");
    return undefined;
  }
  // The first of equals in recipe order: mergekit takes any of them.
  return others.reduce((most, one) => (one.count > most.count ? one : most), first).text;
}

function readTemplate(model: MergeModel | undefined): string | undefined {
  if (model === undefined) return undefined;
  const file = model.documents?.get(CHAT_TEMPLATE_FILE);
  if (file !== undefined) return new TextDecoder().decode(file);
  const template = readDocument(model, TOKENIZER_CONFIG_FILE)?.chat_template;
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return undefined;
  const named: readonly unknown[] = template;
  const texts = named.flatMap((entry) => {
    if (typeof entry !== "object" || entry === null || !("name" in entry) || !("template" in entry)) return [];
    return entry.name === "default" && typeof entry.template === "string" ? [entry.template] : [];
  });
  return texts[0];
}
