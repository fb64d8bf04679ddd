// hadolint's rules, by their numbers, over a parsed Dockerfile: those that can be broken by the few instructions that
// we use. `KNOWN` keeps the rest out: an instruction that is not there is not ours, and neither are its rules.

export type Instruction = { readonly name: string; readonly text: string };

/** Instructions with their lines joined, comments and empty lines left out. */
export function parseDockerfile(text: string): readonly Instruction[] {
  return text
    .split("\n")
    .filter((line) => !/^\s*(?:#|$)/.test(line))
    .join("\n")
    .replace(/\s*\\\n\s*/g, " ")
    .split("\n")
    .map((line) => ({ name: line.split(" ")[0] ?? "", text: line.slice(line.indexOf(" ") + 1).trim() }));
}

/** Without MAINTAINER (DL4000), ADD (DL3020), HEALTHCHECK (DL3012), SHELL (DL4005) and ONBUILD (DL3043). */
export const KNOWN: readonly string[] = ["ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"];

type Rule = {
  readonly id: string;
  readonly says: string;
  /** The instructions that break it. */
  readonly broken: (file: readonly Instruction[]) => readonly Instruction[];
};

const named = (file: readonly Instruction[], ...names: readonly string[]) =>
  file.filter(({ name }) => names.includes(name));
const breaking =
  (name: string, isBroken: (text: string, file: readonly Instruction[]) => boolean): Rule["broken"] =>
  (file) =>
    named(file, name).filter(({ text }) => isBroken(text, file));
/** A layer that installs packages and lacks something. */
const installs = (lacks: RegExp) => breaking("RUN", (text) => /apt-get install/.test(text) && !lacks.test(text));
const pastFirst =
  (...names: readonly string[]): Rule["broken"] =>
  (file) =>
    named(file, ...names).slice(1);
/** The base image with the values of the arguments before it. */
const image = (text: string, file: readonly Instruction[]) =>
  named(file, "ARG").reduce(
    (known, arg) => {
      const [name = "", value = ""] = arg.text.split("=");
      return known.replace(`\${${name}}`, value);
    },
    text.replace(/^--\S+ /, ""),
  );

export const RULES: readonly Rule[] = [
  { id: "DL3000", says: "an absolute WORKDIR", broken: breaking("WORKDIR", (text) => !text.startsWith("/")) },
  {
    id: "DL3002",
    says: "the last USER is not root",
    broken: (file) => {
      const last = named(file, "USER").at(-1);
      return last === undefined ? file.slice(-1) : /^(?:root|0)(?::|$)/.test(last.text) ? [last] : [];
    },
  },
  { id: "DL3003", says: "WORKDIR instead of cd", broken: breaking("RUN", (text) => /(?:^|&& |; )cd /.test(text)) },
  { id: "DL3004", says: "no sudo", broken: breaking("RUN", (text) => /\bsudo\b/.test(text)) },
  { id: "DL3005", says: "no upgrade of a whole image", broken: breaking("RUN", (text) => /upgrade/.test(text)) },
  {
    id: "DL3006",
    says: "a base image of one exact version or digest",
    broken: breaking("FROM", (text, file) => !/:\d+\.\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$/.test(image(text, file))),
  },
  { id: "DL3007", says: "not latest", broken: breaking("FROM", (text, file) => /:latest/.test(image(text, file))) },
  {
    id: "DL3009",
    says: "lists of packages are fetched and removed in the layer that installs",
    broken: breaking("RUN", (text) => {
      const isWhole = /^apt-get update && .*rm -rf [^&]*\/var\/lib\/apt\/lists\/\*/.test(text);
      return /apt-get (?:update|install)/.test(text) && !isWhole;
    }),
  },
  { id: "DL3014", says: "apt-get install --yes", broken: installs(/apt-get install (?:--\S+ )*(?:-y|--yes)\b/) },
  { id: "DL3015", says: "no recommended packages", broken: installs(/--no-install-recommends/) },
  {
    id: "DL3021",
    says: "COPY of several files goes into a folder",
    broken: breaking("COPY", (text) => {
      const words = text.split(" ").filter((word) => !word.startsWith("--"));
      return words.length > 2 && words.at(-1)?.endsWith("/") !== true;
    }),
  },
  {
    id: "DL3025",
    says: "ENTRYPOINT and CMD as lists",
    broken: (file) => named(file, "ENTRYPOINT", "CMD").filter(({ text }) => !/^\["[^\]]*"\]$/.test(text)),
  },
  { id: "DL3027", says: "apt-get, not apt", broken: breaking("RUN", (text) => /(?:^|&& |; )apt /.test(text)) },
  {
    id: "DL3045",
    says: "COPY to a relative place comes after a WORKDIR",
    broken: (file) => {
      const from = file.findIndex(({ name }) => name === "WORKDIR");
      return file.filter(
        ({ name, text }, at) => name === "COPY" && !/ \/\S*$/.test(text) && (from === -1 || at < from),
      );
    },
  },
  { id: "DL3059", says: "one RUN", broken: pastFirst("RUN") },
  {
    id: "DL3061",
    says: "begins with FROM or its ARG",
    broken: (file) => file.slice(0, 1).filter(({ name }) => name !== "FROM" && name !== "ARG"),
  },
  { id: "DL4003", says: "one ENTRYPOINT or CMD", broken: pastFirst("ENTRYPOINT", "CMD") },
  {
    id: "DL4006",
    says: "no pipe without pipefail",
    broken: breaking("RUN", (text) => / \|(?!\|) /.test(text) && !/set -\S* ?-?o pipefail/.test(text)),
  },
];
