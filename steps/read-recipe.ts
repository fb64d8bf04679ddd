// From a recipe file's bytes to a checked recipe: YAML, bounded, each key once, with the line of every field kept for
// errors. What the fields mean is core/recipe's business.
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseAllDocuments,
  type YAMLError,
} from "yaml";
import { MergeyardError } from "../core/error.ts";
import { RECIPE_LIMITS } from "../core/limits.ts";
import type { FieldPath, RecipeOrigin } from "../core/recipe/origin.ts";
import { type ParsedRecipe, parseRecipe, type RecipeDocument } from "../core/recipe/parse.ts";

/**
 * Parses and checks a recipe file; `file` is its name in errors.
 * Throws RecipeTooLarge, RecipeSyntax, RecipeDuplicateKey, and what parseRecipe throws.
 */
export function readRecipe(bytes: Uint8Array, file: string): ParsedRecipe {
  if (bytes.length > RECIPE_LIMITS.bytes) {
    const expected = `at most ${RECIPE_LIMITS.bytes} bytes`;
    throw new MergeyardError("RecipeTooLarge", { where: { file }, found: `${bytes.length} bytes`, expected });
  }
  const text = decodeUtf8(bytes, file);
  const counter = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: counter, schema: "core", version: "1.2", merge: true });
  if (documents.length === 0) {
    throw new MergeyardError("RecipeFieldInvalid", { where: { file }, found: "an empty file", expected: "a recipe" });
  }
  if (documents.length > RECIPE_LIMITS.documents) {
    const expected = `at most ${RECIPE_LIMITS.documents} documents`;
    throw new MergeyardError("RecipeTooLarge", { where: { file }, found: `${documents.length} documents`, expected });
  }
  return parseRecipe(
    documents.map((document) => readDocument(document, counter, file)),
    text,
  );
}

function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new MergeyardError("RecipeSyntax", { where: { file }, found: "bytes that are not UTF-8", cause });
  }
}

function readDocument(document: Document.Parsed, counter: LineCounter, file: string): RecipeDocument {
  const lineAt = (offset: number) => counter.linePos(offset).line;
  const [error] = document.errors;
  if (error !== undefined) throw syntaxError(error, file, lineAt);
  const [warning] = document.warnings;
  // A tag that is not known (`!!python/object` and the like) would silently become a plain value.
  if (warning !== undefined) throw syntaxError(warning, file, lineAt);
  checkTree(document.contents, file, lineAt);
  const origin: RecipeOrigin = { file, prefix: [], line: (path) => lineOf(document.contents, path, lineAt) };
  return { value: toValue(document, file), origin };
}

function syntaxError(error: YAMLError, file: string, lineAt: LineAt): MergeyardError {
  const where = { file, line: lineAt(error.pos[0]) };
  const found = error.message.replace(/ at line \d+, column.*$/s, "");
  // The parser recurses: brackets by the ten thousand exhaust its stack before there is a tree to measure.
  if (/call stack/.test(found)) return new MergeyardError("RecipeTooLarge", { where, ...TOO_DEEP });
  return new MergeyardError(error.code === "DUPLICATE_KEY" ? "RecipeDuplicateKey" : "RecipeSyntax", { where, found });
}

const TOO_DEEP = { found: "deeper nesting", expected: `at most ${RECIPE_LIMITS.depth} levels` };

function toValue(document: Document.Parsed, file: string): unknown {
  try {
    return document.toJS({ maxAliasCount: RECIPE_LIMITS.aliases });
  } catch (cause) {
    if (!(cause instanceof ReferenceError)) throw cause;
    const expected = `at most ${RECIPE_LIMITS.aliases} values from aliases`;
    throw new MergeyardError("RecipeTooLarge", { where: { file }, found: cause.message, expected, cause });
  }
}

type LineAt = (offset: number) => number;

/** Nesting is bounded, and keys are known to be plain, before anything walks the tree recursively. */
function checkTree(contents: Node | null, file: string, lineAt: LineAt): void {
  const open: { node: unknown; depth: number }[] = [{ node: contents, depth: 1 }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { node, depth } = next;
    const children = isMap(node) ? node.items.map(({ value }) => value) : isSeq(node) ? node.items : [];
    const where = { file, line: lineAt((isMap(node) || isSeq(node) ? node.range?.[0] : undefined) ?? 0) };
    if (children.length > 0 && depth > RECIPE_LIMITS.depth) {
      throw new MergeyardError("RecipeTooLarge", { where, ...TOO_DEEP });
    }
    if (isMap(node) && !node.items.every(({ key }) => isScalar(key))) {
      throw new MergeyardError("RecipeSyntax", {
        where,
        found: "a key that is a list or a map",
        expected: "plain keys",
      });
    }
    for (const child of children) open.push({ node: child, depth: depth + 1 });
  }
}

/** The line of a field's key, of a list's item, or of the nearest of either above it. */
function lineOf(contents: Node | null, path: FieldPath, lineAt: LineAt): number | undefined {
  let node: unknown = contents;
  let offset = contents?.range?.[0];
  for (const part of path) {
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(part));
      if (pair === undefined) break;
      if (isScalar(pair.key)) offset = pair.key.range?.[0] ?? offset;
      node = pair.value;
    } else if (isSeq(node) && typeof part === "number") {
      node = node.items[part];
      if (isMap(node) || isSeq(node) || isScalar(node) || isAlias(node)) offset = node.range?.[0] ?? offset;
    } else break;
  }
  return offset === undefined ? undefined : lineAt(offset);
}
