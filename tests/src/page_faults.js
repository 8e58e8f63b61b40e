// What is wrong with the page that is shown, in words: a list, empty for a good page.
const faults = [];
const width = document.documentElement.scrollWidth;
if (width > innerWidth) {
  const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide, pre, .hidden, .skip'));
  faults.push(`${width} px wide: ` + wide.slice(0, 3).map(e => e.outerHTML.slice(0, 80)).join(' '));
}
if (!document.documentElement.lang) faults.push('no language');
if (document.querySelectorAll('h1').length != 1) faults.push('not one h1');
if (!document.querySelector('a.skip[href="#content"]') || !document.querySelector('main#content')) faults.push('no skip link');
for (const e of document.querySelectorAll('input:not([type=hidden]):not([aria-hidden])')) if (!e.labels.length) faults.push('no label: ' + e.name);
for (const e of document.querySelectorAll('svg[role=img]')) if (!e.querySelector('title')?.textContent) faults.push('a picture without a title');
for (const e of document.querySelectorAll('table')) {
  if (!e.caption) faults.push('a table without a caption');
  if (!e.querySelector('th[scope]')) faults.push('a table without headers');
}
const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
if (new Set(ids).size != ids.length) faults.push('an id twice');
const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const rgb = text => text.match(/[\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
  if (!own || e.closest('svg') && e.tagName != 'text' || e.closest('.hidden, title')) continue;
  const style = getComputedStyle(e);
  const [a, b] = [light(rgb(e.closest('svg') ? style.fill : style.color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 80)}`);
}
return faults;
