"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const report = JSON.parse(find("report").textContent);
  const { views } = report;
  const stage = find("stage"), sheet = find("sheet"), map = find("map"), photo = find("photo"), curves = find("curves");
  const opacity = find("opacity"), zoom = find("zoom"), fade = find("fade"), grey = find("grey"), same = find("same");
  const dark = matchMedia("(prefers-color-scheme: dark)"), paper = matchMedia("print");
  let shown = 0; // the view
  let at = null; // where a value is read, as shares of the width and the height
  let drawn = null; // the values on the canvas

  // -- numbers -------------------------------------------------------------------------------------------------------

  function bytes(text) {
    const raw = atob(text), found = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
    return found;
  }

  // Every half float there is: sign, five bits of exponent, ten of mantissa.
  const halves = new Float32Array(65536);
  for (let i = 0; i < 65536; i++) {
    const exponent = (i >> 10) & 31, mantissa = i & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + mantissa / 1024) : 2 ** -14 * (mantissa / 1024);
    halves[i] = i & 32768 ? -size : size;
  }

  async function unpack(view) {
    if (!view.numbers) {
      const stream = new Blob([bytes(view.values)]).stream().pipeThrough(new DecompressionStream("deflate"));
      const planes = new Uint8Array(await new Response(stream).arrayBuffer()), count = view.rows * view.columns;
      if (planes.length !== 2 * count) throw new Error("values are missing");
      view.numbers = new Float32Array(count);
      for (let i = 0; i < count; i++) view.numbers[i] = halves[(planes[i] << 8) | planes[count + i]] * view.top;
      view.values = null;
    }
    return view.numbers;
  }

  // A number with three digits, the sign always there.
  function written(value) {
    if (!value) return "0";
    const size = Math.abs(value), text = size >= 1e-3 && size < 1e5 ? String(Number(size.toPrecision(3))) : size.toExponential(2);
    return (value < 0 ? "−" : "+") + text;
  }

  // -- the map -------------------------------------------------------------------------------------------------------

  const tables = report.colours.map(bytes);
  const table = () => tables[dark.matches && !paper.matches && tables.length > 1 ? 1 : 0];
  const limit = (view) => (same && same.checked ? report.common : view.limit);

  function paint(view, numbers) {
    const { rows, columns, signed } = view, top = limit(view), colours = table(), weak = fade && fade.checked;
    const image = new ImageData(columns, rows), pixels = image.data;
    for (let i = 0, p = 0; i < numbers.length; i++, p += 4) {
      const share = Math.max(-1, Math.min(1, numbers[i] / top));
      const colour = 3 * Math.round((signed ? (share + 1) / 2 : Math.max(share, 0)) * 510);
      pixels[p] = colours[colour];
      pixels[p + 1] = colours[colour + 1];
      pixels[p + 2] = colours[colour + 2];
      pixels[p + 3] = weak ? 255 * Math.sqrt(Math.abs(share)) : 255;
    }
    map.getContext("2d").putImageData(image, 0, 0);
  }

  // Every value is zero: stripes, never nothing.
  function stripe(view) {
    const context = map.getContext("2d"), side = 16;
    map.width = 512;
    map.height = Math.round(512 / view.ratio);
    context.fillStyle = "#ebebeb";
    context.fillRect(0, 0, map.width, map.height);
    context.strokeStyle = "#bebebe";
    context.lineWidth = side / 2;
    for (let x = -map.height; x < map.width; x += 2 * side) {
      context.beginPath();
      context.moveTo(x, map.height);
      context.lineTo(x + map.height, 0);
      context.stroke();
    }
  }

  function paintBar(view) {
    const bar = find("bar"), context = bar.getContext("2d"), image = new ImageData(511, 1), colours = table();
    for (let i = 0; i < 511; i++) image.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
    context.putImageData(image, 0, 0);
    const top = limit(view);
    find("low").textContent = view.signed ? `${written(-top)} against` : "0";
    find("middle").textContent = view.signed ? "0" : "";
    find("high").textContent = `${written(top)} for`;
    bar.setAttribute("aria-label", `colour scale from ${view.signed ? written(-top) : 0} to ${written(top)}`);
    find("scale").hidden = !view.limit;
  }

  function describe(view) {
    const [row, column] = view.strongest, whose = view.target ? ` for ${view.target}` : "";
    const size = `${view.shape[1]} × ${view.shape[0]} values`;
    if (!view.limit) {
      find("caption").textContent = "No relevance: every value is zero.";
      map.setAttribute("aria-label", `relevance by ${view.rules}${whose}, ${size}: every value is zero`);
      return;
    }
    const summed = view.block > 1 ? ` Each value drawn is the sum of ${view.axes[0] === "row" ? view.block : 1} × ${view.block}.` : "";
    const scale = same && same.checked ? `${view.signed ? "±" : "0 to "}${written(report.common).slice(1)}, the same for all maps` : view.scale;
    find("caption").textContent = `${view.rules}${whose}. ${size}, sum ${view.sum}. Scale ${scale}.${summed}`;
    const strongest = written(view.numbers[row * view.columns + column]);
    map.setAttribute("aria-label", `relevance by ${view.rules}${whose}, ${size}, sum ${view.sum}; the strongest, ${strongest}, ` +
      `at ${view.axes[0]} ${row * (view.axes[0] === "row" ? view.block : 1)}, ${view.axes[1]} ${column * view.block}`);
  }

  async function draw() {
    const view = views[shown], figure = find("figure");
    for (const part of document.querySelectorAll("[data-views]")) part.hidden = !part.dataset.views.split(" ").includes(String(shown));
    if (figure) figure.hidden = view.form !== "map";
    if (view.form === "map") {
      let numbers;
      try {
        numbers = await unpack(view);
      } catch {
        return fallBack();
      }
      if (views[shown] !== view) return; // another one was chosen meanwhile
      map.width = view.columns;
      map.height = view.rows;
      const down = view.axes[0] === "row" ? view.block : 1;
      map.style.width = `${(100 * view.columns * view.block) / view.shape[1]}%`;
      map.style.height = `${(100 * view.rows * down) / view.shape[0]}%`;
      document.documentElement.style.setProperty("--ratio", view.ratio);
      if (curves) curves.setAttribute("viewBox", `0 0 ${view.shape[1]} ${view.shape[0]}`);
      if (limit(view)) paint(view, numbers);
      else stripe(view);
      drawn = numbers;
      paintBar(view);
      describe(view);
      look();
    }
    document.documentElement.dataset.shown = shown;
  }

  // A browser that cannot unpack the values: the picture that is there without scripts.
  function fallBack() {
    find("fallback").hidden = false;
    for (const one of [stage, find("scale"), find("readout"), find("look"), find("keys")]) one.hidden = true;
    find("caption").textContent = "This browser is too old to unpack the maps. The first one is shown as it is.";
    document.documentElement.dataset.shown = 0;
  }

  // What changes no value: opacity, zoom, grey.
  function look() {
    const view = views[shown];
    if (opacity) {
      map.style.opacity = opacity.value / 100;
      find("opacity-value").textContent = `${opacity.value} %`;
    }
    if (photo) photo.classList.toggle("grey", grey.checked);
    stage.classList.toggle("fits", zoom.value === "100");
    sheet.style.width = `${zoom.value}%`;
    find("zoom-value").textContent = `${zoom.value} %`;
    const wide = sheet.clientWidth * devicePixelRatio;
    map.classList.toggle("blocks", wide >= view.columns);
    if (photo) photo.classList.toggle("blocks", wide >= 2 * report.photo.size[1]);
    say();
  }

  // -- reading values ------------------------------------------------------------------------------------------------

  // The photograph's pixels; null where the browser does not hand out what was written.
  let ink;
  function colours() {
    if (ink !== undefined) return ink;
    if (!photo || !photo.complete || !photo.naturalWidth) return null;
    const canvas = document.createElement("canvas"), [rows, columns] = report.photo.size;
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(photo, 0, 0);
    const { data } = context.getImageData(0, 0, columns, rows);
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) sum += data[i] + data[i + 1] + data[i + 2];
    const off = Math.abs(sum - report.photo.sum);
    ink = off <= (report.photo.exact ? 0 : 0.01 * report.photo.sum) ? data : null;
    return ink;
  }

  function input(x, y) {
    const pixels = colours(), read = report.photo;
    if (!pixels) return "";
    const row = Math.floor(y * read.size[0]), column = Math.floor(x * read.size[1]), p = 4 * (row * read.size[1] + column);
    const numbers = [...pixels.slice(p, p + (read.grey ? 1 : 3))];
    if (read.low === 0 && read.high === 255) return `${read.exact ? "" : "about "}${numbers.join(", ")}`;
    return numbers.map((n) => String(Number((read.low + (n / 255) * (read.high - read.low)).toPrecision(2)))).join(", ");
  }

  // The signal's own value, where its numbers are unpacked by now.
  function signal(row, column) {
    const { signal: read } = report;
    if (!read.numbers) {
      unpack(read).then(() => say());
      return "";
    }
    return String(Number(read.numbers[row * read.columns + column].toPrecision(3)));
  }

  const place = (share, count) => Math.min(count - 1, Math.floor(share * count));

  function value(view) {
    const across = map.offsetWidth / sheet.clientWidth || 1, down = map.offsetHeight / sheet.clientHeight || 1;
    return [place(at[1] / down, view.rows), place(at[0] / across, view.columns)];
  }

  function say(byKeyboard = false) {
    const view = views[shown], readout = find("readout"), pointer = find("pointer"), cursor = find("cursor");
    if (!at || view.form !== "map" || !drawn) {
      readout.textContent = "";
      pointer.hidden = cursor.hidden = true;
      return;
    }
    readout.setAttribute("aria-live", byKeyboard ? "polite" : "off");
    const [row, column] = value(view), number = drawn[row * view.columns + column], down = view.axes[0] === "row" ? view.block : 1;
    const range = (first, size) => (size > 1 ? `${first * size}–${first * size + size - 1}` : first);
    const strong = document.createElement("b");
    strong.textContent = written(number);
    readout.replaceChildren(`${view.axes[0]} ${range(row, down)}, ${view.axes[1]} ${range(column, view.block)}: `, strong);
    const below = photo ? input(at[0], at[1]) : report.signal ? signal(row, column * view.block) : "";
    if (below) readout.append(` · input ${below}`);
    const share = number / limit(view);
    pointer.hidden = !limit(view);
    pointer.style.left = `${100 * Math.max(0, Math.min(1, view.signed ? (share + 1) / 2 : share))}%`;
  }

  function mark() {
    const view = views[shown], cursor = find("cursor"), [row, column] = value(view);
    const down = view.axes[0] === "row" ? view.block : 1, [rows, columns] = view.shape;
    cursor.hidden = false;
    cursor.style.left = `${(100 * (column + 0.5) * view.block) / columns}%`;
    cursor.style.top = `${(100 * (row + 0.5) * down) / rows}%`;
    cursor.style.width = `${(100 * view.block) / columns}%`;
    cursor.style.height = `${(100 * down) / rows}%`;
  }

  function zoomTo(wanted, x, y) {
    // The point at (x, y) of the frame stays where it is.
    const before = sheet.clientWidth, left = stage.scrollLeft + x, top = stage.scrollTop + y;
    zoom.value = wanted;
    look();
    const grown = sheet.clientWidth / before;
    stage.scrollTo(left * grown - x, top * grown - y);
    if (!find("cursor").hidden) mark();
  }
  const zoomMiddle = (wanted) => zoomTo(wanted, stage.clientWidth / 2, stage.clientHeight / 2);

  // The value that is read stays in sight, all of it where it fits.
  function follow() {
    const view = views[shown], [rows, columns] = view.shape;
    const wide = Math.min(stage.clientWidth / 2, (0.5 * sheet.clientWidth * view.block) / columns + 8);
    const high = Math.min(stage.clientHeight / 2, (0.5 * sheet.clientHeight * view.block) / rows + 8);
    const x = at[0] * sheet.clientWidth, y = at[1] * sheet.clientHeight;
    const into = (from, size, point, room) => Math.max(point + room - size, Math.min(point - room, from));
    stage.scrollTo(into(stage.scrollLeft, stage.clientWidth, x, wide), into(stage.scrollTop, stage.clientHeight, y, high));
  }

  const clip = (share) => Math.min(Math.max(share, 0), 0.9999999);
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  if (stage) {
    find("fallback").hidden = true;
    let grip = null; // where a drag began
    const read = (event) => {
      const box = sheet.getBoundingClientRect();
      at = [clip((event.clientX - box.left) / box.width), clip((event.clientY - box.top) / box.height)];
    };
    stage.addEventListener("pointermove", (event) => {
      if (grip) stage.scrollTo(grip[2] - event.clientX + grip[0], grip[3] - event.clientY + grip[1]);
      read(event);
      find("cursor").hidden = true;
      say();
    });
    stage.addEventListener("pointerdown", (event) => {
      read(event);
      say();
      if (event.pointerType !== "mouse") return mark();
      if (event.button === 0 && zoom.value !== "100") {
        grip = [event.clientX, event.clientY, stage.scrollLeft, stage.scrollTop];
        stage.setPointerCapture(event.pointerId);
        stage.classList.add("moves");
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, () => {
        grip = null;
        stage.classList.remove("moves");
      });
    }
    stage.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !grip) {
        at = null;
        say();
      }
    });
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      zoomTo(Number(zoom.value) - Math.sign(event.deltaY) * 50, event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const view = views[shown], step = steps[event.key];
      if (step) {
        const far = event.shiftKey ? 10 : 1, down = view.axes[0] === "row" ? view.block : 1, [rows, columns] = view.shape;
        const [row, column] = at ? value(view) : [Math.floor(view.rows / 2), Math.floor(view.columns / 2)];
        const first = at ? far : 0; // the first key shows where one is
        const to = (now, by, count) => Math.max(0, Math.min(count - 1, now + by * first));
        at = [clip(((to(column, step[0], view.columns) + 0.5) * view.block) / columns), clip(((to(row, step[1], view.rows) + 0.5) * down) / rows)];
        follow();
        mark();
        say(true);
      } else if (event.key === "+" || event.key === "=") zoomMiddle(Number(zoom.value) + 100);
      else if (event.key === "-") zoomMiddle(Number(zoom.value) - 100);
      else if (event.key === "0") zoomMiddle(100);
      else return;
      event.preventDefault();
    });
    zoom.addEventListener("input", () => {
      const wanted = zoom.value;
      zoom.value = parseFloat(sheet.style.width) || 100;
      zoomMiddle(wanted);
    });
    if (opacity) opacity.addEventListener("input", look);
    if (grey) grey.addEventListener("change", look);
    for (const box of [fade, same]) if (box) box.addEventListener("change", draw);
    for (const query of [dark, paper]) query.addEventListener("change", draw);
    addEventListener("resize", look);
    const begun = new Map([opacity, zoom].filter(Boolean).map((slider) => [slider, slider.defaultValue]));
    find("reset").addEventListener("click", () => {
      for (const [slider, text] of begun) slider.value = text;
      for (const box of [fade, grey, same]) if (box) box.checked = box.defaultChecked;
      at = null;
      draw();
    });
  }

  // -- switches ------------------------------------------------------------------------------------------------------

  const switches = [...document.querySelectorAll("[data-switch]")];
  function choose() {
    const place = [];
    for (const one of switches) if (one.tagName === "SELECT" || one.checked) place[one.dataset.switch] = Number(one.value);
    const wanted = views.findIndex((view) => view.place.every((number, i) => number === place[i]));
    shown = Math.max(wanted, 0);
    draw();
  }
  for (const one of switches) one.addEventListener("change", choose);

  // -- words: arrow keys go from one to the next ---------------------------------------------------------------------

  for (const text of document.querySelectorAll(".relprop-text .text")) {
    const words = text.querySelectorAll(".w");
    if (words.length < 2 || text.closest("li")) continue;
    let now = -1;
    const said = document.createElement("output");
    said.className = "hint";
    said.setAttribute("aria-live", "polite");
    text.tabIndex = 0;
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", "words; arrow keys read their relevance");
    text.after(said);
    const go = (to) => {
      if (now >= 0) words[now].classList.remove("at");
      now = to;
      if (now < 0) return void (said.textContent = "");
      words[now].classList.add("at");
      words[now].scrollIntoView({ block: "nearest" });
      said.textContent = `${words[now].textContent}: ${words[now].title}`;
    };
    text.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      go(Math.max(0, Math.min(words.length - 1, now + by)));
      event.preventDefault();
    });
    text.addEventListener("pointerover", (event) => {
      const word = event.target.closest(".w");
      if (word) go([...words].indexOf(word));
    });
    text.addEventListener("blur", () => go(-1));
  }

  // -- the plan, copying ---------------------------------------------------------------------------------------------

  for (const field of document.querySelectorAll("[data-find]")) {
    const rows = [...find(field.dataset.find).tBodies[0].rows], count = field.parentElement.querySelector("output");
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        left += !row.hidden;
      }
      count.textContent = `${left} of ${rows.length}`;
    });
  }

  // What scrolls can be reached with the keyboard, what does not is no stop on the way.
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth + 1 || target.scrollHeight > target.clientHeight + 1;
      if (scrolls) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const one of document.querySelectorAll(".scroll, pre")) observer.observe(one);

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      let done = true;
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Select and copy";
      find("copied").textContent = done ? "copied" : "selected, to be copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  for (const small of document.querySelectorAll(".thumb")) {
    small.src = photo.src;
    small.classList.toggle("blocks", report.photo.size[1] < 96);
  }
  choose();
})();
