/** A right answer for every function of models/eval/functions.jsonl: the body behind its prompt. */
export const REFERENCES: Readonly<Record<string, string>> = {
  isString: `  return typeof value === "string";
}
`,
  isFunction: `  return typeof value === "function";
}
`,
  isNil: `  return value === null || value === undefined;
}
`,
  isArray: `  return Array.isArray(value);
}
`,
  isEmpty:
    `  return typeof value === "string" ? value.length === 0 : Object.keys(value).length === 0;
}
`,
  isEven: `  return n % 2 === 0;
}
`,
  isPrime: `  if (n < 2) return false;
  for (let i = 2; i * i <= n; i++) {
    if (n % i === 0) return false;
  }
  return true;
}
`,
  isLeapYear: `  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
}
`,
  isPalindrome: `  return text === [...text].reverse().join("");
}
`,
  isDigits: `  return /^[0-9]+$/.test(text);
}
`,
  add: `  return a + b;
}
`,
  square: `  return n * n;
}
`,
  max: `  return a > b ? a : b;
}
`,
  clamp: `  return Math.min(Math.max(value, min), max);
}
`,
  abs: `  return n < 0 ? -n : n;
}
`,
  sign: `  return n > 0 ? 1 : n < 0 ? -1 : 0;
}
`,
  sum: `  return numbers.reduce((total, n) => total + n, 0);
}
`,
  product: `  return numbers.reduce((total, n) => total * n, 1);
}
`,
  mean: `  return numbers.reduce((total, n) => total + n, 0) / numbers.length;
}
`,
  median: `  const sorted = [...numbers].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
`,
  minOf: `  return numbers.length === 0 ? undefined : Math.min(...numbers);
}
`,
  factorial: `  let result = 1;
  for (let i = 2; i <= n; i++) result *= i;
  return result;
}
`,
  fibonacci: `  let [a, b] = [0, 1];
  for (let i = 0; i < n; i++) [a, b] = [b, a + b];
  return a;
}
`,
  gcd: `  while (b !== 0) [a, b] = [b, a % b];
  return a;
}
`,
  toRadians: `  return (degrees * Math.PI) / 180;
}
`,
  toFahrenheit: `  return (celsius * 9) / 5 + 32;
}
`,
  distance: `  return Math.hypot(x2 - x1, y2 - y1);
}
`,
  lerp: `  return a + (b - a) * t;
}
`,
  roundTo: `  const factor = 10 ** places;
  return Math.round(n * factor) / factor;
}
`,
  digitSum: `  let total = 0;
  for (const digit of String(n)) total += Number(digit);
  return total;
}
`,
  range: `  const result = [];
  for (let i = start; i < end; i++) result.push(i);
  return result;
}
`,
  capitalize: `  return text.charAt(0).toUpperCase() + text.slice(1);
}
`,
  reverseString: `  return [...text].reverse().join("");
}
`,
  countChar: `  return text.split(char).length - 1;
}
`,
  countVowels: `  return [...text].filter((char) => "aeiouAEIOU".includes(char)).length;
}
`,
  truncate: `  return text.length <= max ? text : text.slice(0, max) + "...";
}
`,
  repeat: `  return text.repeat(n);
}
`,
  padLeft: `  return text.padStart(length, char);
}
`,
  words: `  return text.split(/\\s+/).filter((word) => word !== "");
}
`,
  kebabCase: `  return text.trim().toLowerCase().split(/\\s+/).join("-");
}
`,
  camelCase: `  return name.replace(/-(.)/g, (_, char) => char.toUpperCase());
}
`,
  initials: `  return name.split(" ").map((word) => word[0].toUpperCase()).join("");
}
`,
  escapeHtml: `  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
`,
  removePrefix: `  return text.startsWith(prefix) ? text.slice(prefix.length) : text;
}
`,
  extension: `  const dot = name.lastIndexOf(".");
  return dot < 0 ? "" : name.slice(dot + 1);
}
`,
  longestWord: `  let longest = "";
  for (const word of words) {
    if (word.length > longest.length) longest = word;
  }
  return longest;
}
`,
  isAnagram: `  return [...a].sort().join() === [...b].sort().join();
}
`,
  first: `  return list[0];
}
`,
  last: `  return list[list.length - 1];
}
`,
  unique: `  return [...new Set(list)];
}
`,
  compact: `  return list.filter(Boolean);
}
`,
  chunk: `  const result = [];
  for (let i = 0; i < list.length; i += size) result.push(list.slice(i, i + size));
  return result;
}
`,
  flatten: `  return lists.flat();
}
`,
  zip: `  const length = Math.min(a.length, b.length);
  return a.slice(0, length).map((item, i) => [item, b[i]]);
}
`,
  intersection: `  return a.filter((item) => b.includes(item));
}
`,
  difference: `  return a.filter((item) => !b.includes(item));
}
`,
  partition: `  return [list.filter(predicate), list.filter((item) => !predicate(item))];
}
`,
  groupBy: `  const groups: Record<string, T[]> = {};
  for (const item of list) (groups[key(item)] ??= []).push(item);
  return groups;
}
`,
  countBy: `  const counts: Record<string, number> = {};
  for (const item of list) counts[item] = (counts[item] ?? 0) + 1;
  return counts;
}
`,
  sortNumbers: `  return [...numbers].sort((a, b) => a - b);
}
`,
  indexOfMax: `  let best = -1;
  numbers.forEach((n, i) => {
    if (best < 0 || n > numbers[best]) best = i;
  });
  return best;
}
`,
  rotate: `  return [...list.slice(n), ...list.slice(0, n)];
}
`,
  swap: `  const copy = [...list];
  [copy[i], copy[j]] = [copy[j], copy[i]];
  return copy;
}
`,
  cumulativeSum: `  let total = 0;
  return numbers.map((n) => total += n);
}
`,
  isSorted: `  return numbers.every((n, i) => i === 0 || numbers[i - 1] <= n);
}
`,
  binarySearch: `  let low = 0;
  let high = numbers.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] === target) return middle;
    if (numbers[middle] < target) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}
`,
  transpose:
    `  return matrix.length === 0 ? [] : matrix[0].map((_, i) => matrix.map((row) => row[i]));
}
`,
  pick: `  const result: Record<string, unknown> = {};
  for (const key of keys) {
    if (key in object) result[key] = object[key];
  }
  return result;
}
`,
  omit: `  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}
`,
  invert: `  return Object.fromEntries(Object.entries(object).map(([key, value]) => [value, key]));
}
`,
  mapValues:
    `  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
}
`,
  merge: `  return { ...a, ...b };
}
`,
  parseQuery: `  return Object.fromEntries(new URLSearchParams(query));
}
`,
  once: `  let done = false;
  let result: T;
  return () => {
    if (!done) {
      result = run();
      done = true;
    }
    return result;
  };
}
`,
  compose: `  return (a) => g(f(a));
}
`,
  memoize: `  const known = new Map<A, B>();
  return (argument) => {
    if (!known.has(argument)) known.set(argument, run(argument));
    return known.get(argument) as B;
  };
}
`,
  times: `  return Array.from({ length: n }, (_, i) => make(i));
}
`,
  assertTrue: `  if (!condition) throw new Error(message);
}
`,
  divide: `  if (b === 0) throw new Error("division by zero");
  return a / b;
}
`,
  tryParse: `  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
`,
  formatDuration:
    `  return \`\${Math.floor(seconds / 60)}:\${String(seconds % 60).padStart(2, "0")}\`;
}
`,
  rgbToHex: `  return "#" + [r, g, b].map((n) => n.toString(16).padStart(2, "0")).join("");
}
`,
  fizzBuzz: `  return Array.from({ length: n }, (_, i) => {
    const k = i + 1;
    return (k % 3 === 0 ? "Fizz" : "") + (k % 5 === 0 ? "Buzz" : "") || String(k);
  });
}
`,
  fromRoman:
    `  const values: Record<string, number> = { I: 1, V: 5, X: 10, L: 50, C: 100, D: 500, M: 1000 };
  let total = 0;
  for (let i = 0; i < roman.length; i++) {
    const value = values[roman[i]];
    total += value < (values[roman[i + 1]] ?? 0) ? -value : value;
  }
  return total;
}
`,
};
