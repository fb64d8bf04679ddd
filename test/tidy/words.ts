// Banned words of test/tidy.test.ts as data: what must not stand in the code, where it may, and what to write instead.

export type BannedWord = {
  readonly name: string;
  /** Searched in code without comments and strings, or in the whole text. */
  readonly in: "code" | "text";
  readonly pattern: RegExp;
  readonly instead: string;
  /** Path prefixes where it is fine. */
  readonly allowed?: readonly string[];
};

/** Folders that talk to the machine: clock, environment, terminal. Everything else gets these as arguments. */
const EDGES = ["cli/", "tools/", "workers/", "local/", "functions/", "infra/", "test/", ".ci/"];

export const BANNED_WORDS: readonly BannedWord[] = [
  {
    name: "leftover marker",
    in: "text",
    pattern: /\b(?:TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b/,
    instead: "finish it, or say in words what is not supported and refuse it with an error",
  },
  { name: "any", in: "code", pattern: /[:<|&(,]\s*any\b|\bas any\b/, instead: "unknown and one zod parse at the edge" },
  { name: "enum", in: "code", pattern: /^\s*(?:export )?(?:const )?enum\s/m, instead: "a frozen object or a zod enum" },
  { name: "namespace", in: "code", pattern: /^\s*(?:export )?(?:namespace|module)\s+\w+\s*\{/m, instead: "a file" },
  {
    name: "default export",
    in: "code",
    pattern: /^export default\b/m,
    instead: "a named export",
    allowed: ["tools/test-report.mjs"],
  },
  {
    name: "barrel",
    in: "code",
    pattern: /^export (?:type )?(?:\*|\{[^}]*\} from)/m,
    instead: "import the file that defines it",
    // Block and Tile are words of the kernel interface; where they are made is the memory's matter.
    allowed: ["core/ops/kernels.ts"],
  },
  {
    name: "console",
    in: "code",
    pattern: /\bconsole\./,
    instead: "the log function among the dependencies",
    allowed: ["cli/", "tools/", "workers/", "test/"],
  },
  {
    name: "global random",
    in: "code",
    pattern: /\bMath\.random\b/,
    instead: "core/random.ts",
    allowed: ["test/", "tools/"],
  },
  {
    name: "wall clock",
    in: "code",
    pattern: /\bDate\.now\b|\bnew Date\(\)|\bperformance\.now\b/,
    instead: "the now function among the dependencies",
    allowed: EDGES,
  },
  {
    name: "environment",
    in: "code",
    pattern: /\bprocess\.env\b/,
    instead: "an argument that an edge fills from the environment",
    allowed: EDGES,
  },
  { name: "process exit", in: "code", pattern: /\bprocess\.exit\b/, instead: "a thrown error", allowed: EDGES },
  {
    name: "network call",
    in: "code",
    pattern: /(?<![.\w])fetch\(/,
    instead: "a store",
    allowed: ["stores/", "tools/"],
  },
  {
    name: "untyped error",
    in: "code",
    pattern: /\bnew (?:Error|TypeError|RangeError)\(/,
    instead: "MergeyardError with a code of the table, or assert for a broken invariant",
    // Failures of a state machine have the names that the machine gives them, not codes of the table.
    // What crashed in a worker thread is carried to its parent as what it was.
    allowed: ["test/", "tools/", "infra/", "local/asl/failure.ts", "workers/"],
  },
];

/** Folder and file names that say nothing: such a helper lives with its only caller, or gets a noun and a home. */
export const BANNED_NAMES = /(?:^|\/)(?:utils?|helpers?|common|shared|lib|types|misc)(?:\/|\.ts$)/;

/** Things of a workplace, not of the product: absolute paths of one machine, ticket numbers, registry hosts. */
export const WORKPLACE: readonly RegExp[] = [
  new RegExp(`(?<![\\w.])/(?:wo${"rk"}|home/\\w+)/`),
  new RegExp(`\\bissue${"s?"} #?\\d`, "i"),
  new RegExp(`\\bregistry\\.npm${"js"}`),
  new RegExp(`\\.\\./shar${"ed"}(?!/golden)`),
  new RegExp(`\\b(?:cla${"ude"}|anthro${"pic"}|chat${"gpt"}|copi${"lot"})\\b`, "i"),
];
