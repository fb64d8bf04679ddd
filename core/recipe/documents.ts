// Files of several documents: which document is the output, and in which order the others are merged before it. A
// document uses another's result by naming it where a model is named.
// Source: mergekit-multi, reference section 5.7.
import { MergeyardError } from "../error.ts";
import { RECIPE_LIMITS } from "../limits.ts";
import { fieldPlace, type RecipeOrigin } from "./origin.ts";
import { listReferences } from "./references.ts";
import type { MergeConfig, MoeConfig } from "./schema.ts";

/** A checked merge part, its place in the file, and what is to be said of it. */
export type ParsedDocument = {
  readonly name: string | undefined;
  /** The document as data. */
  readonly value: unknown;
  readonly merge: MergeConfig | MoeConfig;
  readonly origin: RecipeOrigin;
  readonly warnings: readonly string[];
};

export type OrderedDocuments = {
  /** Each before those that use it. */
  readonly stages: readonly (ParsedDocument & { readonly name: string })[];
  readonly output: ParsedDocument;
  readonly warnings: readonly string[];
};

/**
 * The documents in the order of merging. `pipeline`: the one that says what is published, if any; it is the output,
 * else the one without a name, else the only one that no other uses. `taken`: names that mean other models.
 * Throws RecipeNameInvalid, RecipeCycle, RecipeFieldInvalid (no one output).
 */
export function orderDocuments(
  documents: readonly ParsedDocument[],
  pipeline: ParsedDocument | undefined,
  taken: readonly string[],
): OrderedDocuments {
  const named = nameDocuments(documents.length === 1 ? [] : documents, taken);
  const usesOf = (document: ParsedDocument): readonly ParsedDocument[] => {
    const names = new Set(listReferences(document.merge).map(({ reference }) => reference.base));
    return [...names].flatMap((name) => named.get(name) ?? []);
  };
  const order: ParsedDocument[] = [];
  for (const document of documents) visit(document, { usesOf, order, open: [] });
  const output = findOutput(documents, pipeline, usesOf);
  const needed = new Set<ParsedDocument>([output]);
  for (const document of [...order].reverse()) {
    if (needed.has(document)) for (const used of usesOf(document)) needed.add(used);
  }
  const stages = order.flatMap((document) => {
    const { name } = document;
    return document !== output && needed.has(document) && name !== undefined ? [{ ...document, name }] : [];
  });
  const idle = documents.filter((document) => !needed.has(document));
  const warnings = idle.map(({ name }) => `${name} is used by no other document, and is not merged`);
  return { stages, output, warnings };
}

/** Words that recipes use for other things: mergekit replaces names wherever they stand. */
const RESERVED = new Set(
  (
    "union base auto zero model_token copy drop error skip propagate default strict true false null " +
    "float32 float16 bfloat16 int64 linear slerp nuslerp multislerp karcher passthrough task_arithmetic ties " +
    "dare_linear dare_ties della della_linear breadcrumbs breadcrumbs_ties sce model_stock nearswap arcee_fusion " +
    "ram ramplus_tl alpaca chatml exaone llama3 mistral"
  ).split(" "),
);

function nameDocuments(
  documents: readonly ParsedDocument[],
  taken: readonly string[],
): ReadonlyMap<string, ParsedDocument> {
  const named = new Map<string, ParsedDocument>();
  for (const document of documents) {
    const { name, origin } = document;
    if (name === undefined) continue;
    const refuse = (expected: string): never => {
      throw new MergeyardError("RecipeNameInvalid", { where: fieldPlace(origin, ["name"]), found: name, expected });
    };
    if (named.has(name)) refuse("a name that no other document has");
    if (RESERVED.has(name)) refuse("a name that is no word of the grammar");
    if (taken.includes(name)) refuse("a name that is not under `models`");
    // A reference is cut at these; control characters would break the lines that show it.
    if (/[@+\p{Cc}]/u.test(name) || name.length > RECIPE_LIMITS.nameCharacters) {
      refuse(`at most ${RECIPE_LIMITS.nameCharacters} characters without "@" and "+"`);
    }
    named.set(name, document);
  }
  return named;
}

type Visit = {
  readonly usesOf: (document: ParsedDocument) => readonly ParsedDocument[];
  /** Finished documents, in order. */
  readonly order: ParsedDocument[];
  /** The way to the document at hand. */
  readonly open: readonly ParsedDocument[];
};

function visit(document: ParsedDocument, { usesOf, order, open }: Visit): void {
  if (order.includes(document)) return;
  if (open.includes(document)) {
    const circle = [...open.slice(open.indexOf(document)), document].map(({ name }) => name ?? "the output");
    throw new MergeyardError("RecipeCycle", { where: fieldPlace(document.origin, []), found: circle.join(" uses ") });
  }
  for (const used of usesOf(document)) visit(used, { usesOf, order, open: [...open, document] });
  order.push(document);
}

function findOutput(
  documents: readonly ParsedDocument[],
  pipeline: ParsedDocument | undefined,
  usesOf: Visit["usesOf"],
): ParsedDocument {
  const unnamed = documents.filter((document) => document.name === undefined && document !== pipeline);
  const used = new Set(documents.flatMap(usesOf));
  const last = documents.filter((document) => !used.has(document));
  const candidates = pipeline === undefined ? (unnamed.length > 0 ? unnamed : last) : [pipeline, ...unnamed];
  const [output, second] = candidates;
  if (output !== undefined && second === undefined) return output;
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace((second ?? documents[0])?.origin ?? { file: undefined, prefix: [], line: () => undefined }, []),
    found: `${candidates.length} documents that could be the output`,
    expected: "one document without a `name`, and a `name` for each of the others",
  });
}
