/** A line chart as SVG, readable on a white and on a dark page. */

export interface Point {
  readonly x: number;
  readonly y: number;
  /** Half the length of the error bar. */
  readonly error?: number;
  /** Written beside the point. */
  readonly label?: string;
}

export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
}

export interface Plot {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly series: readonly Series[];
  /** Places on the x axis; chosen evenly where left out. On a list, steps are drawn equally wide (block lengths). */
  readonly ticks?: readonly number[];
}

const WIDTH = 720, LEFT = 56, RIGHT = 190, TOP = 36, BOTTOM = 48;
/** Colours that stand out from white and from black, at least 3 to 1. */
const COLOURS = ["#d2452a", "#2f7fd6", "#2b9348", "#a35fd0", "#b7791f", "#0e8f97", "#d6408f"];

/** Draws it. */
export function svgPlot({ title, x, y, series, ticks }: Plot): string {
  const height = Math.max(360, TOP + BOTTOM + series.length * 18);
  const points = series.flatMap((line) => line.points);
  const across = ticks === undefined ? axis(points.map((point) => point.x)) : undefined;
  const up = axis(points.flatMap(({ y, error = 0 }) => [y - error, y + error]));
  const places = across?.ticks ?? ticks ?? [];
  const right = WIDTH - RIGHT, bottom = height - BOTTOM;
  const atX = (value: number) => {
    const share = across === undefined
      ? (places.indexOf(value) + 0.5) / places.length
      : (value - across.low) / (across.high - across.low);
    return LEFT + share * (right - LEFT);
  };
  const atY = (value: number) => bottom - (value - up.low) / (up.high - up.low) * (bottom - TOP);
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="12">`,
    "<style>text{fill:#57606a}.grid{stroke:#8b949e;stroke-opacity:.3}" +
    "@media (prefers-color-scheme:dark){text{fill:#adb5bd}}</style>",
    text(LEFT, 20, title, 'font-size="14"'),
  ];
  for (const value of up.ticks) {
    const at = fixed(atY(value));
    out.push(`<path class="grid" d="M${LEFT} ${at}H${right}"/>`);
    out.push(text(LEFT - 8, atY(value) + 4, number(value), 'text-anchor="end"'));
  }
  for (const value of places) {
    out.push(text(atX(value), bottom + 18, number(value), 'text-anchor="middle"'));
  }
  out.push(text((LEFT + right) / 2, height - 10, x, 'text-anchor="middle"'));
  out.push(text(
    14,
    (TOP + bottom) / 2,
    y,
    `text-anchor="middle" transform="rotate(-90 14 ${fixed((TOP + bottom) / 2)})"`,
  ));
  series.forEach(({ name, points }, i) => {
    const colour = COLOURS[i % COLOURS.length];
    const dash = i < COLOURS.length ? "" : ' stroke-dasharray="5 3"';
    const path = points.map((point) => `${fixed(atX(point.x))} ${fixed(atY(point.y))}`).join("L");
    out.push(
      `<path d="M${path}" fill="none" stroke="${colour}" stroke-width="1.8" stroke-linejoin="round"${dash}/>`,
    );
    for (const point of points) {
      const [cx, cy] = [fixed(atX(point.x)), fixed(atY(point.y))];
      if (point.error !== undefined && Number.isFinite(point.error)) {
        const [from, to] = [atY(point.y - point.error), atY(point.y + point.error)].map(fixed);
        out.push(`<path d="M${cx} ${from}V${to}" stroke="${colour}" stroke-opacity=".4"/>`);
      }
      out.push(`<circle cx="${cx}" cy="${cy}" r="3.2" fill="${colour}"/>`);
      if (point.label !== undefined) {
        out.push(text(atX(point.x) + 6, atY(point.y) - 6, point.label, 'font-size="10"'));
      }
    }
    const key = TOP + 10 + i * 18;
    out.push(
      `<path d="M${right + 14} ${key}h18" stroke="${colour}" stroke-width="1.8"${dash}/>`,
      text(right + 38, key + 4, name),
    );
  });
  return [...out, "</svg>"].join("\n") + "\n";
}

/** A range and round ticks that cover the values; never empty. */
function axis(values: readonly number[]) {
  const known = values.filter(Number.isFinite);
  const least = Math.min(...known), most = Math.max(...known);
  const size = most - least || Math.abs(most) || 1;
  const rough = size / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => power * factor >= rough) ?? 10);
  const low = Math.floor(least / step) * step;
  const high = Math.max(Math.ceil(most / step), Math.floor(least / step) + 1) * step;
  const ticks = Array.from(
    { length: Math.round((high - low) / step) + 1 },
    (_, i) => low + i * step,
  );
  return { low, high, ticks };
}

const fixed = (value: number) => value.toFixed(1);
const number = (value: number) => String(Number(value.toPrecision(6)));
const escape = (value: string) =>
  value.replace(/[&<>]/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[char] ?? char);

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${fixed(x)}" y="${fixed(y)}"${more && " "}${more}>${escape(content)}</text>`;
}
