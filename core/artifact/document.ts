// Reading and writing the two documents that describe a folder, `universal.json` and `manifest.json`. They are stored
// in canonical JSON, so that the digest of the file is the digest of the document.
import type * as z from "zod";
import { toDotPath } from "zod/v4/core";
import { type ErrorCode, MergeyardError } from "../error.ts";
import { parseJsonDocument } from "../formats/json-scan.ts";
import { ARTIFACT_LIMITS } from "../limits.ts";
import { canonicalJson } from "./digest.ts";

export type DocumentKind<Schema extends z.ZodType> = {
  /** Name of the field that says the version, and of the file without `.json`. */
  readonly mark: "universal" | "manifest";
  readonly version: number;
  readonly schema: Schema;
  readonly invalid: ErrorCode;
  readonly unsupported: ErrorCode;
};

/** The bytes of a document: canonical JSON in UTF-8, no newline at the end. */
export function encodeDocument(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(canonicalJson(value));
}

/**
 * The document in `bytes`; undefined when it is JSON but bears no mark of this kind (another tool's file of the same
 * name). Throws the kind's `invalid` and `unsupported` codes.
 */
export function parseDocument<Schema extends z.ZodType>(
  bytes: Uint8Array,
  file: string,
  kind: DocumentKind<Schema>,
): z.output<Schema> | undefined {
  checkDocumentBytes(bytes.length, file, kind.invalid);
  const value = parseJsonDocument(bytes, {
    refuse: ({ offset, found, expected }) =>
      new MergeyardError(kind.invalid, { where: { file, offset }, found, expected }),
  });
  const mark =
    typeof value === "object" && value !== null && kind.mark in value ? Reflect.get(value, kind.mark) : undefined;
  if (typeof mark !== "number") return undefined;
  if (mark !== kind.version) {
    throw new MergeyardError(kind.unsupported, { where: { file }, found: mark, expected: kind.version });
  }
  return checkDocument(value, file, kind);
}

/** The value by the kind's schema. Throws the kind's `invalid` code, naming the first field that is wrong. */
export function checkDocument<Schema extends z.ZodType>(
  value: unknown,
  file: string,
  kind: DocumentKind<Schema>,
): z.output<Schema> {
  const parsed = kind.schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = toDotPath(issue?.path ?? []) || undefined;
  throw new MergeyardError(kind.invalid, { where: { file, field }, found: issue?.message });
}

/** Throws `code` when a document is larger than any honest one; called before it is read. */
export function checkDocumentBytes(bytes: number, file: string, code: ErrorCode): void {
  if (bytes <= ARTIFACT_LIMITS.documentBytes) return;
  const expected = `at most ${ARTIFACT_LIMITS.documentBytes} bytes`;
  throw new MergeyardError(code, { where: { file }, found: `${bytes} bytes`, expected });
}
