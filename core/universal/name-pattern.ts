// Patterns of parameter names: regular expressions as Python's re.match takes them, anchored at the start only, of the
// subset that such lists use: look-aheads, for one, at the start of a branch alone. They come from checkpoints and
// users, so they run on a linear-time machine of their own, never on a backtracking engine; what is outside of the
// subset is refused, not translated.
// Source: reference checkpoint-formats.md section 4.1; R. Cox, Regular Expression Matching Can Be Simple And Fast,
// 2007.
import { MergeyardError } from "../error.ts";
import { PATTERN_LIMITS } from "../limits.ts";

/** True when the pattern matches the beginning of `name`. Time: length of the name times length of the pattern. */
export type NamePattern = { readonly text: string; matches(name: string): boolean };

type Test = (character: string) => boolean;
type State =
  | { readonly kind: "test"; readonly test: Test; next: number }
  | { readonly kind: "split"; readonly next: number[] }
  | { readonly kind: "start" | "end"; next: number }
  | { readonly kind: "accept" };

/** A piece of the machine: its first state, and where its open ends are to be led. */
type Fragment = { readonly first: number; readonly join: (target: number) => void };

/** One of the alternatives of a whole pattern. */
type Branch = {
  /** What must, or must not, match at the start of the name beside the body: its look-aheads. */
  readonly ahead: readonly { readonly part: Fragment; readonly isNegated: boolean }[];
  readonly body: Fragment;
};

/** Throws UniversalPatternInvalid for what is no pattern or is outside of the subset. */
export function compilePattern(text: string): NamePattern {
  if (text.length > PATTERN_LIMITS.characters) {
    throw patternError(text, `${text.length} characters`, `at most ${PATTERN_LIMITS.characters}`);
  }
  const builder = new Builder(text);
  const branches = builder.branches();
  if (builder.at < builder.characters.length) throw patternError(text, "a ) too many", "balanced parentheses");
  const accepts = (part: Fragment): ((name: string) => boolean) => {
    part.join(builder.add({ kind: "accept" }));
    const machine = new Machine(builder.states, part.first);
    return (name) => machine.matches(name);
  };
  const [plain, guarded] = [
    branches.filter(({ ahead }) => ahead.length === 0),
    branches.filter(({ ahead }) => ahead.length > 0),
  ];
  const tests = guarded.map(({ ahead, body }) => {
    const conditions = ahead.map(({ part, isNegated }) => ({ holds: accepts(part), isNegated }));
    const matches = accepts(body);
    return (name: string) => conditions.every(({ holds, isNegated }) => holds(name) !== isNegated) && matches(name);
  });
  if (plain.length > 0) tests.push(accepts(builder.either(plain.map(({ body }) => body))));
  return { text, matches: (name) => tests.some((matches) => matches(name)) };
}

function patternError(text: string, found: string, expected: string): MergeyardError {
  const where = { field: JSON.stringify(text.slice(0, 200)) };
  return new MergeyardError("UniversalPatternInvalid", { where, found, expected });
}

/** Where the machine stands between two characters, and where each character that was met there leads. */
type Place = {
  /** States that look at the next character. */
  readonly tests: readonly number[];
  readonly isAccepted: boolean;
  /** True when it accepts a name that ends here. */
  readonly isAcceptedAtEnd: boolean;
  readonly ways: Map<string, Place>;
};

/** Ways that a pattern keeps; names need some 100. Too high: hostile names cost memory. Too low: time. */
const WAYS_MAX = 4096;

/** Runs all alternatives side by side, and keeps where characters led: names that begin alike go the same ways. */
class Machine {
  readonly #states: readonly State[];
  readonly #first: number;
  readonly #places = new Map<string, Place>();
  #ways = 0;

  constructor(states: readonly State[], first: number) {
    this.#states = states;
    this.#first = first;
  }

  matches(name: string): boolean {
    let place = this.#places.get("start") ?? this.#keep("start", new Set([this.#first]), true);
    for (const character of name) {
      if (place.isAccepted || place.tests.length === 0) return place.isAccepted;
      place = place.ways.get(character) ?? this.#step(place, character);
    }
    return place.isAcceptedAtEnd;
  }

  #step(place: Place, character: string): Place {
    const reached = new Set<number>();
    for (const index of place.tests) {
      const state = this.#states[index];
      if (state?.kind === "test" && state.test(character)) reached.add(state.next);
    }
    if (this.#ways === WAYS_MAX) {
      for (const { ways } of this.#places.values()) ways.clear();
      this.#places.clear();
      this.#ways = 0;
    }
    const key = [...reached].sort((a, b) => a - b).join();
    const next = this.#places.get(key) ?? this.#keep(key, reached, false);
    place.ways.set(character, next);
    this.#ways += 1;
    return next;
  }

  #keep(key: string, reached: ReadonlySet<number>, isStart: boolean): Place {
    const inside = closure(this.#states, reached, isStart, false);
    const atEnd = closure(this.#states, reached, isStart, true);
    const place: Place = {
      tests: inside === "accept" ? [] : [...inside].filter((index) => this.#states[index]?.kind === "test"),
      isAccepted: inside === "accept",
      isAcceptedAtEnd: atEnd === "accept",
      ways: new Map(),
    };
    this.#places.set(key, place);
    return place;
  }
}

function closure(states: readonly State[], from: ReadonlySet<number>, isStart: boolean, isEnd: boolean) {
  const seen = new Set<number>();
  const pending = [...from];
  for (let index = pending.pop(); index !== undefined; index = pending.pop()) {
    if (seen.has(index)) continue;
    seen.add(index);
    const state = states[index];
    if (state?.kind === "accept") return "accept";
    if (state?.kind === "split") pending.push(...state.next);
    if ((state?.kind === "start" && isStart) || (state?.kind === "end" && isEnd)) pending.push(state.next);
  }
  return seen;
}

const LOOK_AHEADS = "a plain group, (?:, or at the start of the pattern or a branch of it (?= or (?!";

const CLASSES: Readonly<Record<string, Test>> = {
  d: (character) => /^\d$/.test(character),
  w: (character) => /^[\p{L}\p{N}_]$/u.test(character),
  s: (character) => /^\s$/.test(character),
  D: (character) => !/^\d$/.test(character),
  W: (character) => !/^[\p{L}\p{N}_]$/u.test(character),
  S: (character) => !/^\s$/.test(character),
};

/** Recursive descent over the pattern; depth is bounded by its length. */
class Builder {
  readonly states: State[] = [];
  readonly characters: readonly string[];
  readonly text: string;
  at = 0;

  constructor(text: string) {
    this.text = text;
    this.characters = [...text];
  }

  add(state: State): number {
    if (this.states.length === PATTERN_LIMITS.states) {
      throw patternError(this.text, "counts that multiply", `at most ${PATTERN_LIMITS.states} states`);
    }
    return this.states.push(state) - 1;
  }

  peek(): string | undefined {
    return this.characters[this.at];
  }

  /** The alternatives of the whole pattern. */
  branches(): readonly Branch[] {
    return this.separated(() => this.branch());
  }

  separated<T>(read: () => T): readonly T[] {
    const parts = [read()];
    while (this.peek() === "|") {
      this.at += 1;
      parts.push(read());
    }
    return parts;
  }

  branch(): Branch {
    const ahead: Branch["ahead"][number][] = [];
    for (;;) {
      const [, anchor, sign] = /^(\^?)\(\?([=!])/.exec(this.characters.slice(this.at, this.at + 4).join("")) ?? [];
      if (anchor === undefined) return { ahead, body: this.sequence() };
      this.at += anchor.length + "(?=".length;
      ahead.push({ part: this.closed(), isNegated: sign === "!" });
    }
  }

  alternatives(): Fragment {
    return this.either(this.separated(() => this.sequence()));
  }

  either(branches: readonly Fragment[]): Fragment {
    const [only, ...others] = branches;
    if (only !== undefined && others.length === 0) return only;
    const first = this.add({ kind: "split", next: branches.map((branch) => branch.first) });
    return {
      first,
      join: (target) => {
        for (const branch of branches) branch.join(target);
      },
    };
  }

  sequence(): Fragment {
    const items: Fragment[] = [];
    for (let next = this.peek(); next !== undefined && next !== "|" && next !== ")"; next = this.peek()) {
      items.push(this.repeated());
    }
    return this.chain(items);
  }

  /** One after the other; of none, what matches nothing at all. */
  chain(items: readonly Fragment[]): Fragment {
    const empty: number[] = [];
    const first = this.add({ kind: "split", next: empty });
    let join = (target: number): void => void empty.push(target);
    for (const item of items) {
      join(item.first);
      join = item.join;
    }
    return { first, join };
  }

  repeated(): Fragment {
    const from = this.at;
    const item = this.item();
    const counts = this.counts();
    if (counts === undefined) return item;
    const to = this.at;
    const copies = (count: number): Fragment[] =>
      Array.from({ length: count }, () => {
        this.at = from;
        return this.item();
      });
    const { min, max } = counts;
    const items =
      max === Number.POSITIVE_INFINITY
        ? [...copies(Math.max(min - 1, 0)), min === 0 ? this.star(item) : this.plus(item)]
        : [...copies(min), ...copies(max - min).map((copy) => this.optional(copy))];
    this.at = to;
    const [only, ...others] = items;
    return only !== undefined && others.length === 0 ? only : this.chain(items);
  }

  /** How often the item before is taken; undefined: once, and nothing is said. */
  counts(): { readonly min: number; readonly max: number } | undefined {
    const [sign, least, comma, most] =
      /^(?:[*+?]|\{(?=,?\d)(\d{0,4})(,?)(\d{0,4})\})/.exec(this.characters.slice(this.at, this.at + 12).join("")) ?? [];
    if (sign === undefined) return undefined;
    this.at += sign.length;
    // How much an item takes first does not change whether the whole matches.
    if (this.peek() === "?") this.at += 1;
    if (["*", "+", "?", "{"].includes(this.peek() ?? "")) {
      throw patternError(this.text, `${sign}${this.peek()}`, "one of * + ? {N} after an item");
    }
    const min = sign === "+" ? 1 : Number(least ?? 0);
    const max = sign === "?" ? 1 : comma === "" ? min : most ? Number(most) : Number.POSITIVE_INFINITY;
    if (min > max) throw patternError(this.text, sign, "a rising range of counts");
    return { min, max };
  }

  star(item: Fragment): Fragment {
    const next = [item.first];
    const split = this.add({ kind: "split", next });
    item.join(split);
    return { first: split, join: (target) => void next.push(target) };
  }

  plus(item: Fragment): Fragment {
    return { ...this.star(item), first: item.first };
  }

  optional(item: Fragment): Fragment {
    const next = [item.first];
    return {
      first: this.add({ kind: "split", next }),
      join: (target) => {
        item.join(target);
        next.push(target);
      },
    };
  }

  item(): Fragment {
    const character = this.peek() ?? "";
    this.at += 1;
    if (character === "(") return this.group();
    if (character === "[") return this.test(this.charClass());
    if (character === ".") return this.test(() => true);
    if (character === "^") return this.anchor("start");
    if (character === "$") return this.anchor("end");
    if (character === "\\") return this.test(this.escape());
    if ("*+?{}".includes(character)) {
      throw patternError(this.text, JSON.stringify(character), "a literal, . \\d [] () | * + ? {N} ^ or $");
    }
    return this.test((each) => each === character);
  }

  group(): Fragment {
    if (this.peek() === "?") {
      if (this.characters[this.at + 1] !== ":") throw patternError(this.text, "(?", LOOK_AHEADS);
      this.at += 2;
    }
    return this.closed();
  }

  /** What follows up to the parenthesis that closes it. */
  closed(): Fragment {
    const inner = this.alternatives();
    if (this.peek() !== ")") throw patternError(this.text, "a group that does not end", ")");
    this.at += 1;
    return inner;
  }

  test(test: Test): Fragment {
    return this.lead({ kind: "test", test, next: -1 });
  }

  /** A state with one way out. */
  lead(state: Exclude<State, { kind: "split" | "accept" }>): Fragment {
    const first = this.add(state);
    return {
      first,
      join: (target) => {
        state.next = target;
      },
    };
  }

  anchor(kind: "start" | "end"): Fragment {
    return this.lead({ kind, next: -1 });
  }

  escape(): Test {
    const character = this.peek();
    this.at += 1;
    const known = character === undefined ? undefined : CLASSES[character];
    if (known !== undefined) return known;
    if (character === undefined || /[\p{L}\p{N}]/u.test(character)) {
      throw patternError(this.text, `\\${character ?? ""}`, "\\d, \\w, \\s or an escaped sign");
    }
    return (each) => each === character;
  }

  charClass(): Test {
    const isNegated = this.peek() === "^";
    if (isNegated) this.at += 1;
    const tests: Test[] = [];
    for (let next = this.peek(); next !== "]" || tests.length === 0; next = this.peek()) {
      if (next === undefined) throw patternError(this.text, "a class that does not end", "]");
      this.at += 1;
      const isRange = next !== "\\" && this.peek() === "-" && !["]", undefined].includes(this.characters[this.at + 1]);
      if (next === "\\") tests.push(this.escape());
      else if (isRange) tests.push(this.range(next));
      else tests.push((each) => each === next);
    }
    this.at += 1;
    return (character) => tests.some((test) => test(character)) !== isNegated;
  }

  range(low: string): Test {
    const high = this.characters[this.at + 1] ?? "";
    this.at += 2;
    if (high === "\\" || high < low) throw patternError(this.text, `${low}-${high}`, "a rising range of characters");
    return (each) => each >= low && each <= high;
  }
}
