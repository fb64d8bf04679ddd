// `npm run docs`: writes the tables of README.md from the registries, between their markers. A test compares; nobody
// edits them.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { FORMATS } from "../core/formats/registry.ts";
import { findMethod, METHOD_IDS } from "../core/methods/registry.ts";
import { replaceTable } from "./marked-tables.ts";

const FILE = path.resolve(import.meta.dirname, "../README.md");

const BASES = { none: "", optional: "optional", required: "required", member: "one of the models" } as const;

/** README.md with its tables made anew. */
export function renderReadmeTables(readme: string): string {
  return replaceTable(replaceTable(readme, "methods", methodsTable()), "formats", formatsTable());
}

function methodsTable(): string {
  const rows = METHOD_IDS.flatMap((id) => {
    const method = findMethod(id);
    if (method === undefined) return [];
    const { min, max } = method.inputCount;
    const models = max === Number.POSITIVE_INFINITY ? `${min} or more` : min === max ? `${min}` : `${min} to ${max}`;
    return [`| \`${id}\` | ${method.title} | ${models} | ${BASES[method.base]} | ${method.source} |`];
  });
  return ["| `merge_method` | method | models | base model | source |", "|---|---|---|---|---|", ...rows].join("\n");
}

function formatsTable(): string {
  const rows = FORMATS.map(({ id, title }) => `| \`${id}\` | ${title} |`);
  return ["| format | what is recognised |", "|---|---|", ...rows].join("\n");
}

if (import.meta.main) writeFileSync(FILE, renderReadmeTables(readFileSync(FILE, "utf8")));
