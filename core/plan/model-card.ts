// The output's README.md: what it is made of, by which method, with which recipe. The inputs' digests are known only
// once they are adopted, so the card is planned with marks and completed when the version is published.
import type { MergeMethod } from "../methods/method.ts";
import { type SideFile, writtenBytes } from "./schema.ts";

/** Name of the card's file. */
export const MODEL_CARD_FILE = "README.md";

export type ModelCard = {
  readonly name: string;
  readonly method: Pick<MergeMethod, "id" | "title" | "source">;
  /** Models as the recipe spells them, in the plan's order. */
  readonly models: readonly string[];
  readonly base: string | undefined;
  /** The recipe as the user wrote it. */
  readonly recipe: string;
};

/** The card, a Hugging Face model card in Markdown, with a mark for the digest of each model. */
export function writeModelCard({ name, method, models, base, recipe }: ModelCard): string {
  const fence = "`".repeat(Math.max(3, ...(recipe.match(/`+/g) ?? []).map((run) => run.length + 1)));
  return [
    "---",
    "base_model:",
    ...models.map((model) => `- ${JSON.stringify(model)}`),
    "tags:",
    "- merge",
    "- mergeyard",
    "---",
    "",
    `# ${name}`,
    "",
    `A merge of ${models.length} model${models.length === 1 ? "" : "s"}, made by Mergeyard from the recipe below.`,
    "",
    "## Method",
    "",
    `\`${method.id}\`: ${method.title}. ${method.source}.`,
    "",
    "## Models",
    "",
    "| model | digest |",
    "| --- | --- |",
    ...models.map((model, index) => `| ${cell(model)}${model === base ? " (base)" : ""} | ${digestMark(index)} |`),
    "",
    "## Recipe",
    "",
    `${fence}yaml`,
    recipe.trimEnd(),
    fence,
    "",
  ].join("\n");
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|").replaceAll(/[\r\n]+/g, " ");
}

function digestMark(index: number): string {
  return `<!-- digest of source ${index} -->`;
}

/**
 * The card with the digests in place: `digests[i]` is that of the plan's source i, undefined where none was taken. A
 * fingerprint would not do: it says when files were written, and the same merge would have two versions.
 */
export function completeModelCard(card: string, digests: readonly (string | undefined)[]): string {
  return digests.reduce<string>(
    (text, digest, index) => text.replace(digestMark(index), digest ?? "not digested"),
    card,
  );
}

/** What a planned text file holds once the digests of the plan's sources are known: of the card, with them in place. */
export function completedBytes(
  file: Extract<SideFile, { from: "text" }>,
  digests: readonly (string | undefined)[],
): Uint8Array {
  const text = file.name === MODEL_CARD_FILE ? completeModelCard(file.text, digests) : file.text;
  return writtenBytes({ ...file, text });
}
