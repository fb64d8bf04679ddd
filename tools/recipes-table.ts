// `npm run docs`: writes the table of parameters in docs/recipes.md from the schemas of the methods, between its
// markers. A test compares; nobody edits it.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import * as z from "zod";
import { findMethod, METHOD_IDS } from "../core/methods/registry.ts";
import { replaceTable } from "./marked-tables.ts";

const FILE = path.resolve(import.meta.dirname, "../docs/recipes.md");

/** docs/recipes.md with its table made anew. */
export function renderRecipesTable(page: string): string {
  const rows = METHOD_IDS.flatMap((id) => {
    const method = findMethod(id);
    if (method === undefined) return [];
    return [`| \`${id}\` | ${describe(method.modelParameters)} | ${describe(method.parameters)} |`];
  });
  const head = ["| `merge_method` | of each model | of the whole merge |", "|---|---|---|"];
  return replaceTable(page, "parameters", [...head, ...rows].join("\n"));
}

const choices = z.object({ enum: z.array(z.string()).optional() });
const propertySchema = choices.extend({ default: z.json().optional(), anyOf: z.array(choices).optional() });
const objectSchema = z.object({
  properties: z.record(z.string(), propertySchema),
  required: z.array(z.string()).default([]),
});

/** Every parameter with its default and the words that it may be; bold where it must be given. */
function describe(schema: z.ZodType): string {
  const { properties, required } = objectSchema.parse(z.toJSONSchema(schema, { io: "input" }));
  const texts = Object.entries(properties).map(([name, property]) => {
    if (required.includes(name)) return `**\`${name}\`**`;
    const words = [property, ...(property.anyOf ?? [])].flatMap((each) => each.enum ?? []);
    const others = words.filter((word) => word !== property.default).map((word) => `\`${word}\``);
    const value = property.default === undefined ? "" : ` ${property.default}`;
    return `\`${name}\`${value}${others.length === 0 ? "" : ` (or ${others.join(", ")})`}`;
  });
  return texts.join(", ");
}

if (import.meta.main) writeFileSync(FILE, renderRecipesTable(readFileSync(FILE, "utf8")));
