// How an error looks: one block on stderr with code, meaning, place, found, expected and what to do, or the same fields
// as one JSON line when the command was asked for JSON. And which exit status it means.
import { describePlace, type ErrorRecord, MergeyardError } from "../core/error.ts";

/** 0 done, 1 refused or failed, 2 usage, 130 interrupted. */
export const EXIT = Object.freeze({ done: 0, failed: 1, usage: 2, interrupted: 130 });

/** Any thrown thing as one of ours: what is not a MergeyardError is a fault of Mergeyard itself. */
export function toMergeyardError(thrown: unknown): MergeyardError {
  if (thrown instanceof MergeyardError) return thrown;
  const found = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
  return new MergeyardError("CliInternal", { found, cause: thrown });
}

export function exitStatus(error: MergeyardError): number {
  if (error.code === "CliUsage") return EXIT.usage;
  return error.code === "CliInterrupted" ? EXIT.interrupted : EXIT.failed;
}

/** The error as its block (or JSON line), newline included. A fault of Mergeyard itself carries its stack. */
export function renderError(error: MergeyardError, json: boolean): string {
  const record = namePlainly(error.toJSON());
  if (json) return `${JSON.stringify({ error: record })}\n`;
  const stack = error.code === "CliInternal" && error.cause instanceof Error ? (error.cause.stack ?? "") : "";
  return `${renderBlock(record)}${stack === "" ? "" : `${stack}\n`}`;
}

/** The store as the user named it, without the option by which it was opened for plain output. */
function namePlainly(record: ErrorRecord): ErrorRecord {
  const { store } = record.where;
  if (store === undefined) return record;
  return { ...record, where: { ...record.where, store: store.replace(/\?durable=false$/, "") } };
}

function renderBlock(record: ErrorRecord): string {
  const place = describePlace(record.where);
  const lines: (readonly [string, string | undefined])[] = [
    ["what", record.meaning],
    ["where", place === "" ? undefined : place],
    ["found", record.found],
    ["expected", record.expected],
    ["do", record.hint],
  ];
  const body = lines
    .filter(([, value]) => value !== undefined)
    .map(([title, value]) => `  ${title.padEnd(9)} ${indent(value ?? "")}\n`);
  return `error: ${record.code}\n${body.join("")}`;
}

function indent(text: string): string {
  return text.replaceAll("\n", `\n${" ".repeat(12)}`);
}
