// Shows how much of an upload is sent. Without it the form works too.
const form = document.getElementById("upload");
const progress = document.getElementById("progress");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.upload.addEventListener("progress", (sent) => {
    progress.hidden = false;
    if (sent.lengthComputable) progress.value = sent.loaded / sent.total;
  });
  request.addEventListener("load", () => {
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    document.getElementById("main").replaceWith(page.getElementById("main"));
    document.getElementById("main").focus();
  });
  request.addEventListener("error", () => {
    progress.hidden = true;
    form.querySelector("button").disabled = false;
    alert("The upload was cut off.");
  });
  request.send(new FormData(form));
  form.querySelector("button").disabled = true;
});
