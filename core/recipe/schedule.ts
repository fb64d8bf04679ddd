// When a pipeline's `on.schedule` is due: EventBridge's syntax, in UTC. Whoever watches the clock asks for the latest
// time that fell due since it last looked; no state is kept.
//   cron(minutes hours day-of-month month day-of-week year)   fields: * , - /; days also ?, L and #; W in days of month
//   rate(N minutes|hours|days)                                whole multiples since 1970-01-01T00:00Z
//   at(2026-11-24T02:00:00)                                   once
import { type ErrorPlace, MergeyardError } from "../error.ts";

export type Schedule = {
  /** The latest due time in (afterMs, untilMs], in milliseconds and a whole minute; undefined when there is none. */
  latestDue(afterMs: number, untilMs: number): number | undefined;
};

const MINUTE_MS = 60_000;
/** Minutes that cron is looked back over; a clock that stood still for longer misses what was due before that. */
const LOOK_BACK_MINUTES = 1440;
const UNIT_MINUTES: Readonly<Record<string, number>> = { minute: 1, hour: 60, day: 1440 };
const MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/** A minute as the fields see it. `weekday` counts from 1, Sunday. */
type Minute = {
  readonly minute: number;
  readonly hour: number;
  readonly day: number;
  readonly month: number;
  readonly weekday: number;
  readonly year: number;
};
type Test = (time: Minute) => boolean;
type Refuse = (expected: string) => MergeyardError;

/** `where` is the place of the text, for the error. Throws RecipeScheduleInvalid. */
export function parseSchedule(text: string, where: ErrorPlace): Schedule {
  const invalid: Refuse = (expected) =>
    new MergeyardError("RecipeScheduleInvalid", { where, found: text.slice(0, 200), expected });
  const match = /^(cron|rate|at)\(([^()]*)\)$/.exec(text.trim());
  const [, kind = "", inside = ""] = match ?? [];
  if (kind === "cron") return byMinute(parseCron(invalid, inside));
  if (kind === "rate") return parseRate(invalid, inside);
  if (kind === "at") return parseAt(invalid, inside);
  throw invalid("cron(…), rate(…) or at(…)");
}

/** Tries minute after minute, newest first; a look back further than the limit sees the limit's newest part only. */
function byMinute(isDue: Test): Schedule {
  return {
    latestDue(afterMs, untilMs) {
      const newest = Math.floor(untilMs / MINUTE_MS);
      const oldest = Math.max(Math.floor(afterMs / MINUTE_MS) + 1, newest - LOOK_BACK_MINUTES + 1);
      for (let minute = newest; minute >= oldest; minute -= 1) {
        if (isDue(readMinute(minute * MINUTE_MS))) return minute * MINUTE_MS;
      }
      return undefined;
    },
  };
}

function readMinute(timeMs: number): Minute {
  const date = new Date(timeMs);
  return {
    minute: date.getUTCMinutes(),
    hour: date.getUTCHours(),
    day: date.getUTCDate(),
    month: date.getUTCMonth() + 1,
    weekday: date.getUTCDay() + 1,
    year: date.getUTCFullYear(),
  };
}

function parseRate(invalid: Refuse, inside: string): Schedule {
  const [, amount = "", unit = ""] = /^\s*([1-9]\d{0,8})\s+(minute|hour|day)s?\s*$/.exec(inside) ?? [];
  const minutes = Number(amount) * (UNIT_MINUTES[unit] ?? 0);
  if (minutes === 0) throw invalid("rate(5 minutes), rate(1 hour), rate(7 days)");
  const periodMs = minutes * MINUTE_MS;
  return within((untilMs) => Math.floor(untilMs / periodMs) * periodMs);
}

function parseAt(invalid: Refuse, inside: string): Schedule {
  const timeMs = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/.test(inside) ? Date.parse(`${inside}Z`) : Number.NaN;
  if (Number.isNaN(timeMs)) throw invalid("at(2026-11-24T02:00:00)");
  return within(() => Math.floor(timeMs / MINUTE_MS) * MINUTE_MS);
}

function within(latest: (untilMs: number) => number): Schedule {
  return {
    latestDue(afterMs, untilMs) {
      const dueMs = latest(untilMs);
      return dueMs > afterMs && dueMs <= untilMs ? dueMs : undefined;
    },
  };
}

function parseCron(invalid: Refuse, inside: string): Test {
  const fields = inside.trim().split(/\s+/);
  const [minutes = "", hours = "", days = "", months = "", weekdays = "", years = ""] = fields;
  if (fields.length !== 6) throw invalid("six fields: minutes hours day-of-month month day-of-week year");
  if ((days === "?") === (weekdays === "?")) throw invalid("? as day-of-month or as day-of-week, in one of them");
  const range = (field: string, min: number, max: number, names: readonly string[] = []) =>
    parseField(invalid, field, { min, max, names });
  const [minute, hour, year] = [range(minutes, 0, 59), range(hours, 0, 23), range(years, 1970, 2199)];
  const month = range(months, 1, 12, MONTHS);
  const day = days === "?" ? parseWeekdays(invalid, weekdays) : parseDays(invalid, days);
  return (time) => minute(time.minute) && hour(time.hour) && month(time.month) && year(time.year) && day(time);
}

type Bounds = { readonly min: number; readonly max: number; readonly names: readonly string[] };

/** A list of numbers, ranges and steps, by which a value is judged. */
function parseField(invalid: Refuse, field: string, bounds: Bounds): (value: number) => boolean {
  const parts = field.split(",").map((part) => parsePart(invalid, part, bounds));
  return (value) => parts.some((holds) => holds(value));
}

function parsePart(invalid: Refuse, part: string, { min, max, names }: Bounds): (value: number) => boolean {
  const [, from = "", to, step] = /^([^-/]+)(?:-([^-/]+))?(?:\/(\d{1,4}))?$/.exec(part) ?? [];
  const read = (word: string): number => {
    const name = names.indexOf(word.toUpperCase());
    const value = name === -1 ? (/^\d{1,4}$/.test(word) ? Number(word) : Number.NaN) : name + min;
    if (value >= min && value <= max) return value;
    throw invalid(`${word || part} between ${min} and ${max}`);
  };
  const every = step === undefined ? 1 : Number(step);
  if (every === 0) throw invalid("a step of at least 1");
  if (from === "*" && to === undefined) return (value) => (value - min) % every === 0;
  const first = read(from);
  // `5/15` goes on to the end; a lone `5` is itself.
  const last = to === undefined ? (step === undefined ? first : max) : read(to);
  // `FRI-MON` and `22-2` go over the end.
  const span = max - min + 1;
  const length = (last - first + span) % span;
  return (value) => {
    const distance = (value - first + span) % span;
    return distance <= length && distance % every === 0;
  };
}

function parseDays(invalid: Refuse, field: string): Test {
  if (field === "L") return ({ year, month, day }) => day === lastDay(year, month);
  const [, nearest] = /^(\d{1,2})W$/.exec(field) ?? [];
  if (nearest !== undefined) {
    const wanted = Number(nearest);
    if (wanted < 1 || wanted > 31) throw invalid(`${field} between 1W and 31W`);
    return ({ year, month, day }) => day === nearestWorkday(year, month, wanted);
  }
  const holds = parseField(invalid, field, { min: 1, max: 31, names: [] });
  return ({ day }) => holds(day);
}

function parseWeekdays(invalid: Refuse, field: string): Test {
  const bounds = { min: 1, max: 7, names: WEEKDAYS };
  if (field === "L") return ({ weekday }) => weekday === 7;
  const [, last] = /^(\w{1,3})L$/.exec(field) ?? [];
  if (last !== undefined) {
    const holds = parsePart(invalid, last, bounds);
    return ({ year, month, day, weekday }) => holds(weekday) && day > lastDay(year, month) - 7;
  }
  const [, nth, count] = /^(\w{1,3})#([1-5])$/.exec(field) ?? [];
  if (nth !== undefined) {
    const holds = parsePart(invalid, nth, bounds);
    return ({ day, weekday }) => holds(weekday) && Math.ceil(day / 7) === Number(count);
  }
  const holds = parseField(invalid, field, bounds);
  return ({ weekday }) => holds(weekday);
}

function lastDay(year: number, month: number): number {
  return new Date(Date.UTC(year, month, 0)).getUTCDate();
}

/** Monday to Friday nearest to a day, in the same month; none when the month has no such day. */
function nearestWorkday(year: number, month: number, wanted: number): number {
  const last = lastDay(year, month);
  if (wanted > last) return 0;
  const weekday = new Date(Date.UTC(year, month - 1, wanted)).getUTCDay();
  if (weekday === 6) return wanted === 1 ? 3 : wanted - 1;
  if (weekday === 0) return wanted === last ? wanted - 2 : wanted + 1;
  return wanted;
}
