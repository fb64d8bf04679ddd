// `npm run docs`: writes docs/errors.md from the table of codes in core/error.ts. A test compares; nobody edits it.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { ERROR_CODES } from "../core/error.ts";

const FILE = path.resolve(import.meta.dirname, "../docs/errors.md");

/** The document: one table for each group of codes with the same first word, in the order of the table. */
export function renderErrorsDocument(): string {
  const codes = Object.entries(ERROR_CODES);
  const groups = Map.groupBy(codes, ([code]) => /^[A-Z][a-z0-9]*/.exec(code)?.[0] ?? code);
  const tables = [...groups].map(([group, rows]) =>
    [
      `## ${group}`,
      "",
      "| code | meaning | try again? | what to do |",
      "|---|---|---|---|",
      ...rows.map(
        ([code, { meaning, retryable, remedy }]) =>
          `| \`${code}\` | ${cell(meaning)} | ${retryable ? "yes" : "no"} | ${cell(remedy)} |`,
      ),
    ].join("\n"),
  );
  return `# Errors

Made from the tables in \`core/error-codes/\` by \`npm run docs\`; do not edit. Every refusal and failure is one of
these codes. The command line prints it with the place, what was found, what was expected and what to do;
\`--json\` prints the same as an object. "Try again" says whether the same thing can succeed later (network,
capacity): the state machine's retries are made from it.

${tables.join("\n\n")}
`;
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|");
}

if (import.meta.main) writeFileSync(FILE, renderErrorsDocument());
