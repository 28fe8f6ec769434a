# nnU-Net with nnunet-seqtransfer: docker build -t seqtransfer . && docker run --gpus all --ipc=host -v /data:/data seqtransfer
FROM python:3.12-slim
ENV nnUNet_raw=/data/nnUNet_raw nnUNet_preprocessed=/data/nnUNet_preprocessed nnUNet_results=/data/nnUNet_results
COPY . /source
# torch.compile needs a C compiler
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir /source && rm -rf /source
CMD ["bash"]
